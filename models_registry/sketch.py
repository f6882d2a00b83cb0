"""A mergeable sketch of durations, whose percentiles are within 1 % of the true ones whatever their size.

It is the sketch of Masson, Rim and Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees" (VLDB 2019), without its collapsing of buckets: durations in milliseconds span few enough of them.
Bucket ``i`` counts the values in ``(GAMMA**(i - 1), GAMMA**i]``; two sketches are merged by adding their counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
SMALLEST_MS = 0.001
LARGEST_MS = 86_400_000.0
"""A microsecond to a day: 1260 buckets at most. What lies outside counts at the edge."""

_LOG_GAMMA = math.log(GAMMA)

Buckets = Mapping[int, int]
"""Counts by bucket."""


def bucket_of(duration_ms: float) -> int:
    """The bucket of a duration; NaN counts as the smallest."""
    bounded = min(duration_ms, LARGEST_MS) if duration_ms > SMALLEST_MS else SMALLEST_MS
    return math.ceil(math.log(bounded) / _LOG_GAMMA)


def value_of(bucket: int) -> float:
    """The value that stands for a bucket: nowhere in it is the relative error larger than `RELATIVE_ERROR`."""
    return 2 * math.pow(GAMMA, bucket) / (GAMMA + 1)


def quantile(buckets: Buckets, fraction: float) -> float | None:
    """The nearest-rank quantile in milliseconds; ``None`` of an empty sketch. ``fraction`` lies in (0, 1]."""
    total = sum(buckets.values())
    if not total:
        return None
    rank = max(math.ceil(fraction * total), 1)
    reached = 0
    for bucket in sorted(buckets):
        reached += buckets[bucket]
        if reached >= rank:
            return value_of(bucket)
    raise AssertionError("the ranks reach the total")


def merge(*sketches: Buckets) -> Counter[int]:
    """The sketch of everything that any of them counted."""
    merged: Counter[int] = Counter()
    for sketch in sketches:
        merged.update(sketch)
    return merged
