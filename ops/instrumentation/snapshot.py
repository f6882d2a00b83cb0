"""What happened lately, kept in memory: for ``/metrics/basic`` and ``/metrics/json``.

Counters run from the start of the process. Latencies cover a sliding window: the current `WINDOW_S` and the one
before, so that a percentile is never older than twice that.
"""

from __future__ import annotations

import os
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
        return list(map(int.__add__, self.previous, self.current))


@dataclass(slots=True)
class Figures:
    """Counts at one moment, of one process or of several together (see `ops.instrumentation.shared`)."""

    uptime_s: float = 0.0
    queries: Counter[str] = field(default_factory=Counter)
    failed_queries: int = 0
    lookups: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    windows: dict[str, list[int]] = field(default_factory=dict)

    def add(self, other: Figures) -> None:
        """Count another process's in. The longest uptime stands for all."""
        self.uptime_s = max(self.uptime_s, other.uptime_s)
        self.queries.update(other.queries)
        self.failed_queries += other.failed_queries
        self.lookups.update(other.lookups)
        self.counts.update(other.counts)
        self.errors.update(other.errors)
        for name, window in other.windows.items():
            mine = self.windows.get(name)
            self.windows[name] = window if mine is None else list(map(int.__add__, mine, window))

    def stages(self) -> dict[str, StageFigures]:
        """The figures of every stage that ran, by name."""
        return {
            name: StageFigures(
                count=self.counts[name],
                errors=self.errors[name],
                window_count=sum(window),
                p50_ms=_rounded(percentile(window, 0.5)),
                p95_ms=_rounded(percentile(window, 0.95)),
            )
            for name, window in sorted(self.windows.items())
        }

    def cache_hits(self) -> dict[str, int]:
        """How many queries each cache answered; ``none`` counts those that were computed afresh."""
        return {state: self.queries[state] for state in CACHE_STATES}

    def cache_lookups(self) -> dict[str, dict[str, dict[str, int]]]:
        """Lookups by cache, then ``hit`` or ``miss``, then reason; what never happened is left out."""
        found: dict[str, dict[str, dict[str, int]]] = {}
        for (cache, outcome, reason), number in sorted(self.lookups.items()):
            found.setdefault(cache, {}).setdefault(outcome, {})[reason] = number
        return found

    def totals(self) -> dict[str, float]:
        return {
            "uptime_s": round(self.uptime_s, 1),
            "queries": self.queries.total(),
            "query_errors": self.failed_queries,
        }


class Snapshot:
    """Thread-safe counts of this process's stages, queries and cache states."""

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

    def figures(self) -> Figures:
        """The counts now."""
        with self._lock:
            self._turn()
            return Figures(
                self._clock() - self._started,
                self._queries.copy(),
                self._failed_queries,
                self._lookups.copy(),
                self._counts.copy(),
                self._errors.copy(),
                {name: window.counts() for name, window in self._windows.items()},
            )

    def stages(self) -> dict[str, StageFigures]:
        return self.figures().stages()

    def cache_hits(self) -> dict[str, int]:
        return self.figures().cache_hits()

    def cache_lookups(self) -> dict[str, dict[str, dict[str, int]]]:
        return self.figures().cache_lookups()

    def totals(self) -> dict[str, float]:
        return self.figures().totals()

    def forget(self) -> None:
        """Start from nothing: in a forked child, whose parent goes on counting for itself."""
        self.__init__(self._clock)  # type: ignore[misc]

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

os.register_at_fork(after_in_child=SNAPSHOT.forget)
