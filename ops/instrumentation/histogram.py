"""Latency histograms of fixed logarithmic buckets: they add up over time and processes, which percentiles don't.

Bucket ``i`` (from 0) counts durations in ``[FIRST_MS · GROWTH**i, FIRST_MS · GROWTH**(i + 1))``; the first one also
everything shorter, the last one everything longer. `RELATIVE_ERROR` bounds what a percentile loses by it. The SQL
functions ``latency_bucket`` and ``latency_percentile`` (migration 0002) compute the same, from 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FIRST_MS = 0.1
GROWTH = 1.1
BUCKETS = 150
"""150 buckets of 10 % reach from 0.1 ms to 161 s."""

RELATIVE_ERROR = math.sqrt(GROWTH) - 1
"""Largest relative error of `percentile` against the nearest-rank percentile, within the range: 4.9 %."""

_LOG_GROWTH = math.log(GROWTH)


def bucket_of(duration_ms: float) -> int:
    """The bucket of a duration, 0 to ``BUCKETS - 1``."""
    if not duration_ms > FIRST_MS:  # also NaN
        return 0
    if math.isinf(duration_ms):
        return BUCKETS - 1
    return min(int(math.log(duration_ms / FIRST_MS) / _LOG_GROWTH), BUCKETS - 1)


def percentile(counts: Sequence[int], fraction: float) -> float | None:
    """The nearest-rank percentile in milliseconds, as the geometric middle of its bucket; ``None`` without a count.

    ``fraction`` lies in (0, 1]. Durations under `FIRST_MS` read as 0.105 ms.
    """
    wanted = fraction * sum(counts)
    if not wanted:
        return None
    reached = 0
    for bucket, count in enumerate(counts):
        reached += count
        if reached >= wanted:
            return FIRST_MS * math.pow(GROWTH, bucket + 0.5)
    return None
