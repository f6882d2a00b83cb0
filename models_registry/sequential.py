"""Tests that may be looked at after every sample: whoever peeks every two seconds raises no more false alarms.

One martingale serves all of them. For a rate ``p`` and ``n`` outcomes in [0, 1] that sum to ``s``, the beta-binomial
mixture

    M(p) = B(s + 1/2, n - s + 1/2) / B(1/2, 1/2) / (p**s · (1 - p)**(n - s))

is a non-negative (super)martingale that begins at 1 whenever ``p`` is the outcomes' true mean, so that it ever reaches
``1/alpha`` with a probability of at most ``alpha``, however often one looks (Ville's inequality). The rates whose
martingale stays below form a confidence sequence. Sources: Robbins, "Statistical methods related to the law of the
iterated logarithm" (Ann. Math. Statist. 1970); Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform, nonparametric,
nonasymptotic confidence sequences" (Ann. Statist. 2021), section 3; for outcomes between 0 and 1, Hoeffding's convexity
argument (JASA 1963). A quantile's bound follows as in Howard and Ramdas, "Sequential estimation of quantiles with
applications to A/B testing and best-arm identification" (Bernoulli 2022): the share of samples up to a fixed value is
a rate. It only needs counts, which is what a sketch holds.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate

from models_registry import sketch
from models_registry.sketch import Buckets

_PRIOR = 0.5
_LOG_PRIOR = 2 * math.lgamma(_PRIOR) - math.lgamma(2 * _PRIOR)
_BISECTIONS = 50


def log_evidence(total: float, count: int, rate: float) -> float:
    """log M(rate): how strongly ``count`` outcomes that sum to ``total`` speak against that mean."""
    if not count:
        return 0.0
    failures = count - total
    mixture = math.lgamma(total + _PRIOR) + math.lgamma(failures + _PRIOR) - math.lgamma(count + 2 * _PRIOR)
    return mixture - _LOG_PRIOR - _times_log(total, rate) - _times_log(failures, 1 - rate)


def lower_bound(total: float, count: int, alpha: float) -> float:
    """Below the mean at all times with a probability of at least ``1 - alpha``; 0 without a sample."""
    return _bound(total, count, alpha, 0.0)


def upper_bound(total: float, count: int, alpha: float) -> float:
    """Above the mean at all times with a probability of at least ``1 - alpha``; 1 without a sample."""
    return _bound(total, count, alpha, 1.0)


def quantile_lower_bound(buckets: Buckets, fraction: float, alpha: float) -> float:
    """Below the quantile of the durations at all times with a probability of at least ``1 - alpha``; 0 if unknown."""
    edges, reached = _cumulative(buckets)
    count = reached[-1] if reached else 0
    if not count or not _is_against(0, count, fraction, alpha):
        return 0.0
    # Edges with so few samples up to them that the quantile must lie above; so must the next sample's lower edge.
    below = bisect_left(
        reached, True, key=lambda up_to: up_to >= fraction * count or not _is_against(up_to, count, fraction, alpha)
    )
    return math.pow(sketch.GAMMA, edges[below] - 1)


def quantile_upper_bound(buckets: Buckets, fraction: float, alpha: float) -> float:
    """Above the quantile at all times with a probability of at least ``1 - alpha``; infinite if unknown."""
    edges, reached = _cumulative(buckets)
    count = reached[-1] if reached else 0
    above = bisect_left(
        reached, True, key=lambda up_to: up_to > fraction * count and _is_against(up_to, count, fraction, alpha)
    )
    return math.pow(sketch.GAMMA, edges[above]) if above < len(edges) else math.inf


def _cumulative(buckets: Buckets) -> tuple[list[int], list[int]]:
    """The buckets in their order, and how many samples there are up to the upper edge of each."""
    edges = sorted(buckets)
    return edges, list(accumulate(buckets[bucket] for bucket in edges))


def _is_against(total: float, count: int, rate: float, alpha: float) -> bool:
    return log_evidence(total, count, rate) >= -math.log(alpha)


def _bound(total: float, count: int, alpha: float, end: float) -> float:
    """The rate nearest to ``end`` that the outcomes don't speak against, rounded towards ``end``."""
    if not count:
        return end
    inside, outside = total / count, end
    if inside == end or log_evidence(total, count, end) < -math.log(alpha):
        return end
    for _ in range(_BISECTIONS):
        middle = (inside + outside) / 2
        if log_evidence(total, count, middle) < -math.log(alpha):
            inside = middle
        else:
            outside = middle
    return outside


def _times_log(times: float, value: float) -> float:
    """``times · log(value)``, where nothing times the logarithm of 0 is nothing."""
    if times <= 0:
        return 0.0
    return times * math.log(value) if value > 0 else -math.inf
