"""A rollout's variants side by side, for people: what each did since the last step, and what the guardrails read."""

from __future__ import annotations

from typing import Any

from models_registry import sketch
from models_registry.guardian import standing_of
from models_registry.guardrails import OVERLAP_SCALE
from models_registry.models import Rollout
from models_registry.statistics import StatisticsUnavailableError, Tally, buckets_of


def figures_of(rollout: Rollout) -> dict[str, Any] | None:
    """``candidate``, ``stable`` and ``readings`` as plain JSON; ``None`` while Redis is away."""
    try:
        standing = standing_of(rollout)
    except StatisticsUnavailableError:
        return None
    return {
        "candidate": variant_figures(standing.canary),
        "stable": variant_figures(standing.stable),
        "readings": [reading.as_dict() for reading in standing.readings],
    }


def variant_figures(tally: Tally) -> dict[str, Any]:
    """What one variant counted. Shares are between 0 and 1, ``None`` without a sample."""
    buckets = buckets_of(tally)
    return {
        "answers": tally["answers"],
        "error_rate": _share(tally, "errors", "answers"),
        "empty_rate": _share(tally, "empty", "answers"),
        "click_rate": _share(tally, "clicked", "answers"),
        "votes": tally["votes"],
        "downvote_rate": _share(tally, "down", "votes"),
        "p50_ms": _rounded(sketch.quantile(buckets, 0.5)),
        "p95_ms": _rounded(sketch.quantile(buckets, 0.95)),
        "p99_ms": _rounded(sketch.quantile(buckets, 0.99)),
        "compared": tally["compared"],
        "overlap": round(tally["overlap"] / OVERLAP_SCALE / tally["compared"], 4) if tally["compared"] else None,
        "top10_changes": round(tally["changes"] / tally["compared"], 2) if tally["compared"] else None,
    }


def _share(tally: Tally, counter: str, of: str) -> float | None:
    return round(tally[counter] / tally[of], 5) if tally[of] else None


def _rounded(duration_ms: float | None) -> float | None:
    return None if duration_ms is None else round(duration_ms, 2)
