"""Calls of a server that may be away: tried again when that may help, and left alone while it keeps failing."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential

from rag.pipeline.retrieval import RetrievalError

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
FIRST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.3
FAILURES_TO_OPEN = 3


class CircuitBreaker:
    """Opens after ``failures`` in a row; then lets one call through every ``open_s`` seconds, until one succeeds.

    So a server that hangs costs one time-out every few seconds and not one a request, and is used again by itself.
    """

    def __init__(
        self, open_s: float, failures: int = FAILURES_TO_OPEN, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._open_s = open_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._next_trial_at = 0.0
        self._reason = ""

    def admits(self) -> bool:
        """Whether to call. While open, True is for the caller who is to try."""
        with self._lock:
            if self._failures < self._limit:
                return True
            if self._clock() < self._next_trial_at:
                return False
            self._next_trial_at = self._clock() + self._open_s
            return True

    @property
    def is_open(self) -> bool:
        """Whether it has opened and nobody is due to try; asking takes no turn."""
        with self._lock:
            return self._failures >= self._limit and self._clock() < self._next_trial_at

    @property
    def reason(self) -> str:
        """Why the last call failed; empty after a success."""
        return self._reason

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._reason = 0, ""

    def failed(self, reason: str) -> bool:
        """Note a failure. Returns whether this one opened it."""
        with self._lock:
            self._failures += 1
            self._reason = reason
            self._next_trial_at = self._clock() + self._open_s
            return self._failures == self._limit


class Guard:
    """What stands between us and one server.

    ``explain`` turns an exception of its client into a sentence, or ``None`` when it isn't the server's fault.
    ``is_passing`` says of such an exception whether another try at once may help. Nothing is tried again after
    ``patience_s``.
    """

    def __init__(
        self,
        name: str,
        *,
        explain: Callable[[BaseException], str | None],
        is_passing: Callable[[BaseException], bool],
        patience_s: float,
        breaker: CircuitBreaker,
    ) -> None:
        self._name = name
        self._explain = explain
        self._breaker = breaker
        self._retrying = Retrying(
            stop=stop_after_attempt(ATTEMPTS) | stop_after_delay(patience_s),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            retry=retry_if_exception(is_passing),
            reraise=True,
        )

    def call(self, function: Callable[[], T]) -> T:
        """The function's result. Raises `RetrievalError` for what `explain` knows, and at once while it is open."""
        if not self._breaker.admits():
            raise RetrievalError(f"{self._name} is left alone for some seconds, as it failed: {self._breaker.reason}")
        return self._run(self._retrying, function)

    def ask(self, function: Callable[[], T]) -> T:
        """As `call`, once and whether it is open or not: for health checks, which so also close it again."""
        return self._run(None, function)

    def _run(self, retrying: Retrying | None, function: Callable[[], T]) -> T:
        try:
            result = function() if retrying is None else retrying(function)
        except Exception as error:
            reason = self._explain(error)
            if reason is None:
                raise
            if self._breaker.failed(reason):
                logger.warning("%s is left alone for some seconds: %s", self._name, reason)
            raise RetrievalError(reason) from error
        self._breaker.succeeded()
        return result
