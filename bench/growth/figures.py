"""What is measured of one size of a collection."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

FIRST_BM25 = "BM25, words not held yet"
FILTERS = {"1 %": ("hundredth", 7), "5 %": ("twentieth", 7), "20 %": ("fifth", 2), "50 %": ("half", 1)}
UNFILTERED = "all"


@dataclass
class Timing:
    """Milliseconds of one kind of search, and its recall@10 against exact search where it has one."""

    p50_ms: float
    p95_ms: float
    recall: float | None = None

    @classmethod
    def of(cls, durations_ms: Sequence[float], recalls: Sequence[float] | None = None) -> Self:
        p50_ms, p95_ms = np.percentile(durations_ms, (50, 95))
        return cls(float(p50_ms), float(p95_ms), None if recalls is None else float(np.mean(recalls)))


@dataclass
class Size:
    """One size, built once and measured in rounds."""

    chunks: int
    built: dict[str, Any]
    """``index``, ``build_s``, the sizes ``index_bytes``, ``vectors_bytes`` and ``postings_bytes``,
    ``postings_of_query`` (of all words of a query together, in the median) and ``held_at_most``."""
    searches: list[dict[str, Timing]] = field(default_factory=list)
    written_per_s: list[float] = field(default_factory=list)
    filters: dict[str, Timing] = field(default_factory=dict)
    server_memory_bytes: int = 0

    def search(self, name: str) -> Timing:
        """The medians over the rounds."""
        rounds = [one[name] for one in self.searches]
        recalls = [one.recall for one in rounds if one.recall is not None]
        return Timing(
            statistics.median(one.p50_ms for one in rounds),
            statistics.median(one.p95_ms for one in rounds),
            statistics.median(recalls) if recalls else None,
        )

    @property
    def written(self) -> float:
        """Chunks a second, the median of the rounds."""
        return statistics.median(self.written_per_s)
