"""A small line chart with logarithmic axes, as SVG: enough for the pages of results."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 70, 170, 40, 50
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f")


def chart(title: str, x_label: str, y_label: str, x: Sequence[float], lines: Mapping[str, Sequence[float]]) -> str:
    """One polyline for each of ``lines``, all over ``x``; values above 0, powers of ten marked on both axes."""
    values = [value for line in lines.values() for value in line]
    across, up = _axis(x, LEFT, WIDTH - RIGHT), _axis(values, HEIGHT - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text x="14" y="{TOP - 8}">{escape(y_label)}</text>',
    ]
    for value in x:
        place = across(value)
        parts.append(f'<path d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,g}</text>')
    for mark in _marks(values):
        place = up(mark)
        parts.append(f'<path d="M{LEFT} {place:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{mark:g}</text>')
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across(a), up(b)) for a, b in zip(x, line, strict=True)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{across(a):.1f}" cy="{up(b):.1f}" r="3" fill="{colour}"/>'
            for a, b in zip(x, line, strict=True)
        ]
        parts.append(
            f'<text x="{WIDTH - RIGHT + 12}" y="{TOP + 18 * number + 10}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _axis(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    low, high = math.log10(min(values)), math.log10(max(values))
    if high == low:
        low, high = low - 0.5, high + 0.5
    return lambda value: start + (math.log10(value) - low) / (high - low) * (end - start)


def _marks(values: Sequence[float]) -> list[float]:
    """One, two and five times each power of ten within the values."""
    low, high = min(values), max(values)
    tens = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [mark for ten in tens for mark in (10.0**ten, 2 * 10.0**ten, 5 * 10.0**ten) if low <= mark <= high]
