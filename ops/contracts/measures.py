"""Registration of what alert rules can watch: an app says how to read a figure, a rule says when it is bad."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

Labels = Mapping[str, str]

Reader = Callable[[Labels, datetime, timedelta], float | None]
"""``read(labels, at, window)``: the figure over the window that ends ``at``; ``None`` when nothing happened in it."""

Historian = Callable[[Labels, timedelta, datetime, datetime, timedelta], list[tuple[datetime, float | None]]]
"""``history(labels, window, start, end, step)``: what `Reader` would have said at each step from start to end."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A figure that rules can watch. ``unit`` is ``ms``, ``s``, ``ratio`` (0 to 1) or empty for counts.

    ``labels`` are the names a rule may choose by; ``values`` has what may be chosen of a name, where that is known.
    Without ``history`` what rules have read is kept, and replayed.
    """

    name: str
    help: str
    unit: str
    read: Reader
    labels: tuple[str, ...] = ()
    history: Historian | None = None
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_measures: dict[str, Measure] = {}


def register_measure(measure: Measure) -> None:
    """Register, or replace, the measure of this name."""
    _measures[measure.name] = measure


def measures() -> dict[str, Measure]:
    """Every registered measure by name, sorted."""
    return dict(sorted(_measures.items()))
