"""Whether what the server depends on works: every registered check, bounded in time, its answer reused for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime

from django.db import connections
from django.utils import timezone

from ops.contracts.health import HealthCheck, Report, State, health_checks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, how long it took, and since when it has been in this state (in this process)."""

    name: str
    state: State
    detail: str
    critical: bool
    latency_ms: float
    since: datetime


@dataclass(frozen=True, slots=True)
class Readiness:
    """All findings, by name. ``state`` is ``FAILED`` when a critical check failed, else the worst is ``DEGRADED``."""

    state: State
    findings: tuple[Finding, ...]


class HealthMonitor:
    """Asks the checks side by side, each on a thread of its own.

    A check that hangs is reported as failed and not asked again until it has ended, so that a store which never
    answers costs one thread, not one a request.
    """

    def __init__(
        self, *, timeout_s: float, cache_s: float, checks: Callable[[], tuple[HealthCheck, ...]] = health_checks
    ) -> None:
        self._timeout_s = timeout_s
        self._cache_s = cache_s
        self._checks = checks
        self._lock = threading.Lock()
        self._running: dict[str, Future[tuple[Report, float]]] = {}
        self._last: dict[str, Finding] = {}
        self._answer: Readiness | None = None
        self._answered_at = 0.0

    def readiness(self) -> Readiness:
        """The present answer, at most ``cache_s`` old. Callers that come at once share one round of checks."""
        with self._lock:
            if self._answer is None or time.monotonic() - self._answered_at >= self._cache_s:
                self._answer = self._ask()
                self._answered_at = time.monotonic()
            return self._answer

    def _ask(self) -> Readiness:
        checks = self._checks()
        deadline = time.monotonic() + self._timeout_s
        for check in checks:
            if check.name not in self._running:
                self._running[check.name] = _start(check)
        findings = tuple(self._collect(check, deadline) for check in checks)
        if any(finding.state is State.FAILED and finding.critical for finding in findings):
            state = State.FAILED
        elif any(finding.state is not State.OK for finding in findings):
            state = State.DEGRADED
        else:
            state = State.OK
        return Readiness(state, findings)

    def _collect(self, check: HealthCheck, deadline: float) -> Finding:
        try:
            report, latency_ms = self._running[check.name].result(timeout=max(deadline - time.monotonic(), 0))
            del self._running[check.name]
        except TimeoutError:
            report = Report(State.FAILED, f"No answer within {self._timeout_s:g} s.")
            latency_ms = self._timeout_s * 1000
        before = self._last.get(check.name)
        since = before.since if before is not None and before.state is report.state else timezone.now()
        if before is not None and before.state is not report.state:
            logger.warning("%s is %s now: %s", check.name, report.state.value, report.detail)
        finding = Finding(check.name, report.state, report.detail, check.critical, round(latency_ms, 1), since)
        self._last[check.name] = finding
        return finding


def _start(check: HealthCheck) -> Future[tuple[Report, float]]:
    """Ask on a daemon thread: one that hangs must not keep the process from ending, as a pool's thread would."""
    future: Future[tuple[Report, float]] = Future()

    def ask() -> None:
        started = time.perf_counter()
        try:
            report = check.ask()
        except Exception as error:
            report = Report(State.FAILED, type(error).__name__)
        try:
            connections.close_all()
        except Exception:
            logger.debug("A connection of the check %s did not close", check.name, exc_info=True)
        future.set_result((report, (time.perf_counter() - started) * 1000))

    threading.Thread(target=ask, name=f"health-{check.name}", daemon=True).start()
    return future
