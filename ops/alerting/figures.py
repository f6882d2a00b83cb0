"""The plot of what a rule would have said of the past, for the admin."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ops.alerting.rules import Replay, readable
from ops.contracts.measures import measures
from ops.plots import Column, number

PLACES = 96
HEADROOM = 1.08
"""The highest of values and threshold reaches this much below the top."""


@dataclass(frozen=True, slots=True)
class ReplayFigures:
    """A bar for each of `PLACES` steps of time, at most 100 high: ``top``. ``threshold`` is where its line lies."""

    replay: Replay
    columns: tuple[Column, ...]
    threshold: str
    top: str
    worst: tuple[str, ...]
    places: int = PLACES

    @property
    def start(self) -> datetime:
        return self.replay.readings[0][0]

    @property
    def end(self) -> datetime:
        return self.replay.readings[-1][0]


def replay_figures(replay: Replay) -> ReplayFigures | None:
    """The plot, or ``None`` where nothing was read. Of the readings within a step the worst is drawn."""
    rule, readings = replay.rule, replay.readings
    known = [value for _, value in readings if value is not None]
    if not known:
        return None
    unit = measures()[rule.measure].unit
    start, length = readings[0][0], (readings[-1][0] - readings[0][0]) or None
    worse = max if rule.comparison == "above" else min
    by_place: dict[int, tuple[datetime, float]] = {}
    for at, value in readings:
        if value is not None:
            place = min(int(PLACES * (at - start) / length), PLACES - 1) if length else 0
            before = by_place.get(place, (at, value))
            by_place[place] = (before[0], worse(before[1], value))
    top = HEADROOM * (max(*known, rule.threshold, 0.0) or 1.0)

    def is_bad(value: float) -> bool:
        return value > rule.threshold if rule.comparison == "above" else value < rule.threshold

    columns = []
    for place, (at, value) in sorted(by_place.items()):
        height = max(100 * value / top, 0.6)
        title = f"{at:%d %b %H:%M}: {readable(value, unit)}"
        columns.append(
            Column("less" if is_bad(value) else "plain", number(place), number(100 - height), number(height), title)
        )
    return ReplayFigures(
        replay,
        tuple(columns),
        number(100 - 100 * rule.threshold / top),
        readable(top, unit),
        tuple(readable(one.worst, unit) for one in replay.fired),
    )
