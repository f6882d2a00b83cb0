"""The geometry of the plots, which templates draw as SVG beside the numbers they stand for.

Nothing but positions and lengths is decided here: colours and sizes are those of ``static/css/plots.css``, so that a
plot follows the page's light and dark. Numbers are formatted for SVG: at most two decimals, a point in every language.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

HALF = 100.0
"""Half the width of a diverging bar: zero lies in its middle, at x = 100."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a plot. ``kind`` is its class in the style sheet."""

    kind: str
    x: str
    width: str


def diverging_bar(value: float, limit: float) -> Bar:
    """A bar to the right of zero for more, to the left for less, in a width of 200; ``limit`` fills one half."""
    length = min(HALF * abs(value) / limit, HALF) if limit > 0 else 0.0
    kind = "more" if value > 0 else "less"
    return Bar(kind, number(HALF if value > 0 else HALF - length), number(length))


def number(value: float) -> str:
    """As SVG reads it."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in {"", "-0"} else text


@dataclass(frozen=True, slots=True)
class Column:
    """A bar that stands or hangs, one unit wide, at ``x``; ``title`` is what the browser shows of it."""

    kind: str
    x: str
    y: str
    height: str
    title: str = ""


def columns(counts: Sequence[float], kind: str) -> list[Column]:
    """A histogram in a height of 100, which its largest column fills."""
    largest = max(counts, default=0) or 1
    return [
        Column(kind, number(place), number(100 - height), number(height), f"{count:g}")
        for place, count in enumerate(counts)
        for height in [100 * count / largest]
    ]


def deltas(values: Sequence[float], limit: float, titles: Sequence[str]) -> list[Column]:
    """Bars above or below zero, which lies at 50 of a height of 100; ``limit`` fills one half."""
    drawn = []
    for place, (value, title) in enumerate(zip(values, titles, strict=True)):
        height = min(50 * abs(value) / limit, 50.0) if limit > 0 else 0.0
        if height:
            kind, top = ("more", 50 - height) if value > 0 else ("less", 50.0)
            drawn.append(Column(kind, number(place), number(top), number(height), title))
    return drawn
