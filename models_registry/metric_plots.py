"""What a model's page shows: its metrics over its versions, as plots beside the numbers they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from models_registry.models import ModelVersion
from ops.plots import number

MOST_METRICS = 12
MOST_VERSIONS = 30


@dataclass(frozen=True, slots=True)
class Point:
    """A version's value. ``x`` and ``y`` are percentages of the plot's width and height."""

    version: ModelVersion
    value: float
    x: str
    y: str


@dataclass(frozen=True, slots=True)
class MetricPlot:
    """One metric by version, oldest first."""

    name: str
    points: Sequence[Point]
    low: float
    high: float

    @property
    def line(self) -> str:
        """The points as SVG's polyline reads them."""
        return " ".join(f"{point.x},{point.y}" for point in self.points)


def metric_plots(versions: Sequence[ModelVersion]) -> list[MetricPlot]:
    """A plot for each number in the metrics of these versions, those that most of them have first.

    Nested metrics are named by their path, as in ``zero_shot_ndcg@10 / linear / macro``.
    """
    ordered = sorted(versions, key=lambda version: version.number)[-MOST_VERSIONS:]
    values: dict[str, list[tuple[int, float]]] = {}
    for place, version in enumerate(ordered):
        for name, value in _numbers(version.metrics):
            values.setdefault(name, []).append((place, value))
    names = sorted(values, key=lambda name: (-len(values[name]), name))[:MOST_METRICS]
    return [_plot(name, values[name], ordered) for name in names]


def _numbers(metrics: Mapping[str, object], path: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        where = f"{path} / {name}" if path else name
        if isinstance(value, Mapping):
            yield from _numbers(value, where)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield where, float(value)


def _plot(name: str, values: Sequence[tuple[int, float]], versions: Sequence[ModelVersion]) -> MetricPlot:
    low, high = min(value for _, value in values), max(value for _, value in values)
    spread = high - low
    points = [
        Point(
            versions[place],
            value,
            number(50.0 if len(versions) == 1 else 100 * place / (len(versions) - 1)),
            number(50.0 if spread == 0 else 90 - 80 * (value - low) / spread),
        )
        for place, value in values
    ]
    return MetricPlot(name, points, low, high)
