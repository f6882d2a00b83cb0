"""When an alert fires and when it is over: a state machine over readings, without a clock of its own.

OK ── bad ──► PENDING ── bad for ``for_s`` ──► FIRING ── good again, by the margin ──► OK
                 └────── not bad ──► OK

Time is that of the readings, never a count of them, so missed and doubled evaluations change nothing, except that a
longer gap starts the waiting anew: nobody saw what was in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

LONGEST_GAP = timedelta(seconds=90)
"""Readings further apart than this don't prove that it was bad in between."""


class Phase(StrEnum):
    OK = "ok"
    PENDING = "pending"
    FIRING = "firing"


class Comparison(StrEnum):
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, slots=True)
class Condition:
    """What is bad. With hysteresis, a firing alert is over only beyond ``clear_threshold``, on the good side."""

    comparison: Comparison
    threshold: float
    clear_threshold: float
    for_s: float

    def is_bad(self, value: float) -> bool:
        return value > self.threshold if self.comparison is Comparison.ABOVE else value < self.threshold

    def is_over(self, value: float) -> bool:
        """Whether a firing alert ends."""
        if self.is_bad(value):
            return False
        if self.comparison is Comparison.ABOVE:
            return value <= self.clear_threshold
        return value >= self.clear_threshold


@dataclass(frozen=True, slots=True)
class Situation:
    """Where a rule stands: since when it is in its phase, and when it was read last."""

    phase: Phase = Phase.OK
    since: datetime | None = None
    read_at: datetime | None = None


def advance(condition: Condition, before: Situation, at: datetime, value: float | None) -> Situation:
    """The situation after a reading. ``None`` says that nothing happened, which is not bad.

    A reading that is not later than the last one changes nothing.
    """
    if before.read_at is not None and at <= before.read_at:
        return before
    after = replace(before, read_at=at)
    if before.phase is Phase.FIRING:
        over = value is None or condition.is_over(value)
        return replace(after, phase=Phase.OK, since=at) if over else after
    if value is None or not condition.is_bad(value):
        return after if before.phase is Phase.OK else replace(after, phase=Phase.OK, since=at)
    has_gap = before.read_at is None or at - before.read_at > LONGEST_GAP
    is_known = before.phase is Phase.PENDING and before.since is not None and not has_gap
    bad_since = before.since if is_known and before.since is not None else at
    if at - bad_since >= timedelta(seconds=condition.for_s):
        return replace(after, phase=Phase.FIRING, since=at)
    return replace(after, phase=Phase.PENDING, since=bad_since)
