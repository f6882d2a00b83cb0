"""Registration of Prometheus metrics: each is declared once, so that the reference and the dashboards can list them.

Two kinds of metric: those that the code counts as things happen, and those that are read when somebody scrapes
(`declare_scraped`), such as the length of a queue, which belongs to no process.

With the environment variable ``PROMETHEUS_MULTIPROC_DIR`` (which `manage.py serve` sets for its children) the counts of
all processes that share the folder are added up; see `ops.instrumentation.processes`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import psutil
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family

from ops.contracts.env import handed_over

logger = logging.getLogger(__name__)

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

SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own name for the folder in which processes keep their counts."""

Metric = TypeVar("Metric", Counter, Gauge, Histogram)
Kind = Literal["counter", "gauge", "histogram"]
Across = Literal["livesum", "livemax", "livemostrecent"]
Samples = Iterable[tuple[Sequence[str], float]]
"""Label values, in the order of the declared labels, with the value."""


@dataclass(frozen=True, slots=True)
class MetricDeclaration:
    """One exported metric family."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...]

    @property
    def sample_names(self) -> tuple[str, ...]:
        """The names by which queries refer to it."""
        if self.kind == "counter":
            return (f"{self.name.removesuffix('_total')}_total",)
        if self.kind == "histogram":
            return (f"{self.name}_bucket", f"{self.name}_sum", f"{self.name}_count")
        return (self.name,)


_declarations: dict[str, MetricDeclaration] = {}
_scraped: dict[str, Callable[[], Samples]] = {}
_broken: set[str] = set()


def declare_counter(name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
    """A counter; the exported name ends in ``_total``."""
    _note(name, "counter", help_text, labels)
    return _remembering(Counter(name, help_text, labels))


def declare_gauge(name: str, help_text: str, labels: Sequence[str] = (), *, across: Across = "livesum") -> Gauge:
    """A gauge. ``across`` says what the values of several live processes make together; a dead one's are forgotten."""
    _note(name, "gauge", help_text, labels)
    return _remembering(Gauge(name, help_text, labels, multiprocess_mode=across))


def declare_latency(name: str, help_text: str, labels: Sequence[str] = ()) -> Histogram:
    """A histogram of seconds over `LATENCY_BUCKETS_S`."""
    _note(name, "histogram", help_text, labels)
    return _remembering(Histogram(name, help_text, labels, buckets=LATENCY_BUCKETS_S))


def _remembering(metric: Metric) -> Metric:
    """A metric that finds what it has counted under the same labels before without making sure of them again.

    It keeps all of them for ever itself, and none of ours is ever cleared.
    """
    metric.labels = cache(metric.labels)  # type: ignore[method-assign]
    return metric


def declare_scraped(
    name: str,
    help_text: str,
    read: Callable[[], Samples],
    labels: Sequence[str] = (),
    *,
    kind: Literal["counter", "gauge"] = "gauge",
) -> None:
    """A metric that ``read`` looks up at each scrape: something of the installation, not of a process.

    ``read`` must be bounded in time. When it raises, the metric is left out of that scrape: unknown is not zero.
    """
    _note(name, kind, help_text, labels)
    _scraped[name] = read


def metric_declarations() -> tuple[MetricDeclaration, ...]:
    """Every declared metric, sorted by name."""
    return tuple(_declarations[name] for name in sorted(_declarations))


class ScrapedMetrics:
    """The collector of what `declare_scraped` declared."""

    def collect(self) -> Iterator[Family]:
        for name, read in sorted(_scraped.items()):
            declaration = _declarations[name]
            family = (CounterMetricFamily if declaration.kind == "counter" else GaugeMetricFamily)(
                name, declaration.help, labels=declaration.labels
            )
            try:
                for label_values, value in read():
                    family.add_metric(list(label_values), value)
            except Exception as error:
                if name not in _broken:
                    _broken.add(name)
                    logger.warning("%s can't be read and is left out: %s", name, type(error).__name__)
                continue
            _broken.discard(name)
            yield family


def process_identity() -> str:
    """This process's name among all that ever shared the folder: its id and when it started, in clock ticks.

    An id alone is given again after a while, and would take over the counts of a process that is long gone.
    """
    global _identity
    pid = os.getpid()
    if _identity[0] != pid:
        _identity = (pid, f"{pid}-{started_at_ticks(pid)}")
    return _identity[1]


def started_at_ticks(pid: int) -> int:
    """When a process started, in hundredths of a second. Raises `psutil.NoSuchProcess`."""
    return round(psutil.Process(pid).create_time() * 100)


def _note(name: str, kind: Kind, help_text: str, labels: Sequence[str]) -> None:
    _declarations[name] = MetricDeclaration(name, kind, help_text, tuple(labels))


_identity = (0, "")

# A second series for each counter and histogram, which tells when it was made: of no use here.
disable_created_metrics()  # type: ignore[no-untyped-call]

if handed_over(SHARED_FOLDER_VARIABLE) is not None:
    # Before the first metric is made. The library's own choice is the bare process id.
    values.ValueClass = values.MultiProcessValue(process_identity)  # type: ignore[no-untyped-call]
