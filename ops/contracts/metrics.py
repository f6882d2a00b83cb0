"""Registration of Prometheus metrics: each is declared once, so that the reference and the dashboards can list them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from prometheus_client import Counter, Gauge, Histogram

LATENCY_BUCKETS_S = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""Bucket bounds of every latency histogram, in seconds: 0.5 ms to 30 s, about 2.2 apart."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class MetricDeclaration:
    """One exported metric family."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]


_declarations: dict[str, MetricDeclaration] = {}


def declare_counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
    """A counter; the exported name ends in ``_total``."""
    _note(name, "counter", help_text, labels)
    return Counter(name, help_text, labels)


def declare_gauge(name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
    """A gauge, summed over live processes in multi-process mode."""
    _note(name, "gauge", help_text, labels)
    return Gauge(name, help_text, labels, multiprocess_mode="livesum")


def declare_latency(name: str, help_text: str, labels: Sequence[str] = ()) -> Histogram:
    """A histogram of seconds over `LATENCY_BUCKETS_S`."""
    _note(name, "histogram", help_text, labels)
    return Histogram(name, help_text, labels, buckets=LATENCY_BUCKETS_S)


def metric_declarations() -> tuple[MetricDeclaration, ...]:
    """Every declared metric, sorted by name."""
    return tuple(_declarations[name] for name in sorted(_declarations))


def _note(name: str, kind: Literal["counter", "gauge", "histogram"], help_text: str, labels: Sequence[str]) -> None:
    _declarations[name] = MetricDeclaration(name, kind, help_text, tuple(labels))
