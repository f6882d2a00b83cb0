"""What a rollout's candidate must not do, tested on live figures after every look without raising false alarms.

Each guardrail compares bounds that hold at all times (`models_registry.sequential`): it is breached when even the most
favourable reading of the samples is worse than its limit allows. ``alpha`` is the probability that a rollout of a
candidate that is as good as the stable version is ever rolled back: it is split over guardrails, steps, and variants.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from models_registry import sketch
from models_registry.sequential import lower_bound, quantile_lower_bound, quantile_upper_bound, upper_bound
from models_registry.statistics import Tally, buckets_of
from ops.contracts.problems import InvalidRequest

P95 = 0.95

ALPHA = 0.05
MIN_SAMPLES = 100


@dataclass(frozen=True, slots=True)
class Reading:
    """What a guardrail makes of the samples. ``breached`` is decided by bounds, the two values are only shown."""

    guardrail: str
    canary: float | None
    stable: float | None
    limit: float
    samples: int
    breached: bool
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


Test = Callable[[Tally, Tally, float, float], tuple[float | None, float | None, int, bool]]
"""``(canary, stable, limit, alpha)`` to the two values, the canary's samples, and whether the limit is breached."""


@dataclass(frozen=True, slots=True)
class Guardrail:
    """``limit`` is the default. ``says`` is a sentence over ``canary``, ``stable`` and ``limit``."""

    name: str
    help: str
    limit: float
    smallest: float
    largest: float
    test: Test
    says: str


def _latency_ratio(canary: Tally, stable: Tally, limit: float, alpha: float) -> tuple[Any, Any, int, bool]:
    ours, theirs = buckets_of(canary), buckets_of(stable)
    slow, usual = (
        quantile_lower_bound(ours, P95, alpha / 2),
        quantile_upper_bound(theirs, P95, alpha / 2),
    )
    return sketch.quantile(ours, P95), sketch.quantile(theirs, P95), sum(ours.values()), slow > limit * usual


def _rate_increase(counter: str, of: str) -> Test:
    """The canary's rate may be at most ``limit`` above the stable one's."""

    def test(canary: Tally, stable: Tally, limit: float, alpha: float) -> tuple[Any, Any, int, bool]:
        least = lower_bound(canary[counter], canary[of], alpha / 2)
        most = upper_bound(stable[counter], stable[of], alpha / 2)
        return _rate(canary, counter, of), _rate(stable, counter, of), canary[of], least > most + limit

    return test


def _rate_drop(counter: str, of: str) -> Test:
    """The canary's rate may be at most the share ``limit`` below the stable one's."""

    def test(canary: Tally, stable: Tally, limit: float, alpha: float) -> tuple[Any, Any, int, bool]:
        most = upper_bound(canary[counter], canary[of], alpha / 2)
        least = lower_bound(stable[counter], stable[of], alpha / 2)
        return _rate(canary, counter, of), _rate(stable, counter, of), canary[of], most < least * (1 - limit)

    return test


OVERLAP_SCALE = 1_000_000
"""Overlaps lie in [0, 1] and are summed as whole millionths."""


def _overlap(canary: Tally, stable: Tally, limit: float, alpha: float) -> tuple[Any, Any, int, bool]:
    total, count = canary["overlap"] / OVERLAP_SCALE, canary["compared"]
    return (total / count if count else None), None, count, upper_bound(total, count, alpha) < limit


GUARDRAILS: Mapping[str, Guardrail] = {
    one.name: one
    for one in (
        Guardrail(
            "latency_ratio",
            "The canary's p95 of answers that no cache helped, divided by the stable one's.",
            1.5, 1.0, 100.0, _latency_ratio,
            "its p95 is {canary:.1f} ms against {stable:.1f} ms; at most {limit:g} times as long is allowed",
        ),
        Guardrail(
            "error_rate",
            "By how much the canary's share of failed or degraded answers may exceed the stable one's.",
            0.01, 0.0, 1.0, _rate_increase("errors", "answers"),
            "{canary:.1%} of its answers failed or were degraded against {stable:.1%}; {limit:.1%} more is allowed",
        ),
        Guardrail(
            "empty_rate",
            "By how much the canary's share of answers without a result may exceed the stable one's.",
            0.02, 0.0, 1.0, _rate_increase("empty", "answers"),
            "{canary:.1%} of its answers were empty against {stable:.1%}; {limit:.1%} more is allowed",
        ),
        Guardrail(
            "click_rate",
            "By which share of the stable one's the canary's share of answers with a click may be lower.",
            0.2, 0.0, 1.0, _rate_drop("clicked", "answers"),
            "{canary:.1%} of its answers were clicked on against {stable:.1%}; {limit:.0%} less is allowed",
        ),
        Guardrail(
            "downvote_rate",
            "By how much the canary's share of votes that are down may exceed the stable one's.",
            0.1, 0.0, 1.0, _rate_increase("down", "votes"),
            "{canary:.1%} of its votes are down against {stable:.1%}; {limit:.1%} more is allowed",
        ),
        Guardrail(
            "shadow_overlap",
            "Least mean overlap of the candidate's ranking with the one that was served (rank-biased overlap).",
            0.5, 0.0, 1.0, _overlap,
            "its rankings overlap with the served ones by {canary:.2f} on average; at least {limit:g} is asked for",
        ),
    )
}  # fmt: skip

FOR_CANARY = ("latency_ratio", "error_rate", "empty_rate", "click_rate", "downvote_rate")
FOR_SHADOW = ("latency_ratio", "error_rate", "empty_rate", "shadow_overlap")


def checked(limits: Mapping[str, float | None], *, shadow: bool) -> dict[str, float]:
    """The limits of every guardrail that a rollout has: those given, else the defaults.

    ``None`` as a limit leaves a guardrail out. Raises `InvalidRequest` that names every fault.
    """
    known = FOR_SHADOW if shadow else FOR_CANARY
    errors = {
        f"guardrails.{name}": f"There is no such guardrail here: {', '.join(known)}."
        for name in limits
        if name not in known
    }
    found: dict[str, float] = {}
    for name in known:
        limit = limits.get(name, GUARDRAILS[name].limit)
        if limit is None:
            continue
        smallest, largest = GUARDRAILS[name].smallest, GUARDRAILS[name].largest
        if not (math.isfinite(limit) and smallest <= limit <= largest):
            errors[f"guardrails.{name}"] = f"From {smallest:g} to {largest:g}, not {limit:g}."
        found[name] = float(limit)
    if errors:
        raise InvalidRequest("The guardrails can't be used.", errors=errors)
    return found


def read(canary: Tally, stable: Tally, limits: Mapping[str, float], *, min_samples: int, alpha: float) -> list[Reading]:
    """Every guardrail's reading, in their order. ``alpha`` is what all of them may spend together.

    None is breached before its canary has ``min_samples``.
    """
    readings = []
    for name, limit in limits.items():
        guardrail = GUARDRAILS[name]
        ours, theirs, samples, breached = guardrail.test(canary, stable, limit, alpha / max(len(limits), 1))
        shown = {"canary": ours or 0.0, "stable": theirs or 0.0, "limit": limit}
        sentence = guardrail.says.format(**shown) if samples else "no samples yet"
        readings.append(Reading(name, ours, theirs, limit, samples, breached and samples >= min_samples, sentence))
    return readings


def _rate(tally: Counter[str], counter: str, of: str) -> float | None:
    return tally[counter] / tally[of] if tally[of] else None
