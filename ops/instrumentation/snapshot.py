"""What this process did lately, kept in memory: for ``/metrics/basic`` and ``/metrics/json``.

Counters run from the start of the process. Latencies cover a sliding window: the current `WINDOW_S` and the one
before, so that a percentile is never older than twice that.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

from ops.instrumentation.histogram import BUCKETS, bucket_of, percentile

WINDOW_S = 300.0

CACHE_STATES = ("full", "feature", "none")
"""Where an answer came from: the response cache, the feature cache, or neither."""


class StageFigures(TypedDict):
    """One stage. ``count`` and ``errors`` since the process started, the rest over the window."""

    count: int
    errors: int
    window_count: int
    p50_ms: float | None
    p95_ms: float | None


@dataclass(slots=True)
class _Window:
    """Two histograms that take turns."""

    current: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    previous: list[int] = field(default_factory=lambda: [0] * BUCKETS)

    def turn(self, turns: int) -> None:
        self.previous = self.current if turns == 1 else [0] * BUCKETS
        self.current = [0] * BUCKETS

    def counts(self) -> list[int]:
        return [old + new for old, new in zip(self.previous, self.current, strict=True)]


class Snapshot:
    """Thread-safe counts of stages, queries and cache states."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._turned_at = self._started
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._queries: Counter[str] = Counter()
        self._failed_queries = 0
        self._lookups: Counter[tuple[str, str, str]] = Counter()

    def add_stage(self, name: str, duration_ms: float, failed: bool) -> None:
        """A sink of `ops.contracts.stage`."""
        bucket = bucket_of(duration_ms)
        with self._lock:
            self._turn()
            window = self._windows.get(name)
            if window is None:
                window = self._windows[name] = _Window()
            window.current[bucket] += 1
            self._counts[name] += 1
            if failed:
                self._errors[name] += 1

    def add_query(self, cache: str, failed: bool) -> None:
        with self._lock:
            self._queries[cache] += 1
            self._failed_queries += failed

    def add_cache_lookup(self, cache: str, outcome: str, reason: str) -> None:
        with self._lock:
            self._lookups[cache, outcome, reason] += 1

    def cache_lookups(self) -> dict[str, dict[str, dict[str, int]]]:
        """Lookups by cache, then ``hit`` or ``miss``, then reason; what never happened is left out."""
        with self._lock:
            counts = sorted(self._lookups.items())
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (cache, outcome, reason), number in counts:
            found.setdefault(cache, {}).setdefault(outcome, {})[reason] = number
        return found

    def stages(self) -> dict[str, StageFigures]:
        """The figures of every stage that ran, by name."""
        with self._lock:
            self._turn()
            histograms = {name: window.counts() for name, window in sorted(self._windows.items())}
            counts, errors = dict(self._counts), dict(self._errors)
        return {
            name: StageFigures(
                count=counts[name],
                errors=errors.get(name, 0),
                window_count=sum(histogram),
                p50_ms=_rounded(percentile(histogram, 0.5)),
                p95_ms=_rounded(percentile(histogram, 0.95)),
            )
            for name, histogram in histograms.items()
        }

    def cache_hits(self) -> dict[str, int]:
        """How many queries each cache answered; ``none`` counts those that were computed afresh."""
        with self._lock:
            return {state: self._queries[state] for state in CACHE_STATES}

    def totals(self) -> dict[str, float]:
        with self._lock:
            return {
                "uptime_s": round(self._clock() - self._started, 1),
                "queries": self._queries.total(),
                "query_errors": self._failed_queries,
            }

    def _turn(self) -> None:
        turns = int((self._clock() - self._turned_at) / WINDOW_S)
        if turns:
            self._turned_at += turns * WINDOW_S
            for window in self._windows.values():
                window.turn(turns)


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 3)


SNAPSHOT = Snapshot()
"""This process's own."""
