"""Why a passage is where it is, as a plot: what made its learned score, feature by feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ops.plots import Bar, diverging_bar
from rag.pipeline.features import SCHEMA

SHOWN = 8
"""Features with a row of their own; the rest are summed."""

MEANINGS = {feature.name: feature.meaning for feature in SCHEMA}


@dataclass(frozen=True, slots=True)
class Contribution:
    """One feature's part in the learned score."""

    name: str
    meaning: str
    value: float
    part: float
    bar: Bar


@dataclass(frozen=True, slots=True)
class Explanation:
    """The largest parts first. ``base`` is the same for each passage of a query; everything adds up to ``total``."""

    largest: list[Contribution]
    others: int
    others_part: float
    others_bar: Bar
    base: float
    total: float


def explanation_of(result: Mapping[str, Any]) -> Explanation | None:
    """``None`` for a result that was not asked to be explained, or whose ranker could not be asked."""
    parts: Mapping[str, float] | None = result.get("contributions")
    if parts is None:
        return None
    names = sorted((name for name in parts if name != "base"), key=lambda name: (-abs(parts[name]), name))
    shown = [name for name in names[:SHOWN] if parts[name]]
    others = [name for name in names[SHOWN:] if parts[name]]
    others_part = sum(parts[name] for name in others)
    limit = max([abs(parts[name]) for name in shown] + [abs(others_part)], default=0.0)
    return Explanation(
        largest=[
            Contribution(
                name, MEANINGS.get(name, ""), result["features"][name], parts[name], diverging_bar(parts[name], limit)
            )
            for name in shown
        ],
        others=len(others),
        others_part=others_part,
        others_bar=diverging_bar(others_part, limit),
        base=parts["base"],
        total=result["ltr_score"],
    )
