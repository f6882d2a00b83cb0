"""``with stage("embed"):`` is the only instrumentation call.

Each finished stage is handed to every registered sink and, when a `recording` is active in this context, to it. A
sink must be quick and must not raise; one that raises is logged once and never breaks the request.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

PIPELINE_STAGES = ("embed", "retrieval", "feature", "ltr", "fusion", "pipeline")
"""The stages of one query, in the order they run; ``pipeline`` contains the others."""

INDEXING_STAGES = ("parse", "chunk", "embed_batch", "write")
"""The stages of indexing a batch of documents."""

StageSink = Callable[[str, float, bool], None]
"""``sink(name, duration_ms, failed)``."""


@dataclass(slots=True)
class Recording:
    """The stages that ran inside one `recording`, in milliseconds. A stage that ran twice is summed."""

    durations_ms: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, duration_ms: float) -> None:
        self.durations_ms[name] = self.durations_ms.get(name, 0.0) + duration_ms


_sinks: list[StageSink] = []
_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)
_broken_sinks: set[StageSink] = set()


def register_sink(sink: StageSink) -> None:
    """Add a sink, once."""
    if sink not in _sinks:
        _sinks.append(sink)


@contextmanager
def recording() -> Iterator[Recording]:
    """Collect the durations of every stage that runs inside this block, in this context."""
    current = Recording()
    token = _recording.set(current)
    try:
        yield current
    finally:
        _recording.reset(token)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Time a block. The duration counts also when the block raises; the sinks then hear ``failed=True``."""
    started = time.perf_counter()
    failed = True
    try:
        yield
        failed = False
    finally:
        duration_ms = (time.perf_counter() - started) * 1000
        current = _recording.get()
        if current is not None:
            current.add(name, duration_ms)
        for sink in _sinks:
            try:
                sink(name, duration_ms, failed)
            except Exception:
                if sink not in _broken_sinks:
                    _broken_sinks.add(sink)
                    logger.exception("A stage sink failed; its further failures are not logged")
