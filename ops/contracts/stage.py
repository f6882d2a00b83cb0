"""``with stage("embed"):`` is the only instrumentation call.

Each finished stage is handed to every registered sink and, when a `recording` is active in this context, to it. A
sink must be quick and must not raise; one that raises is logged once and never breaks the request. While tracing is on
the block is a span as well, so that the SQL and the calls inside it are seen below it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import perf_counter
from types import TracebackType
from typing import TypeVar

from ops.contracts.begun import BegunSpan

logger = logging.getLogger(__name__)
T = TypeVar("T")

PIPELINE_STAGES = ("embed", "retrieval", "feature", "ltr", "fusion", "pipeline")
"""The stages of one query, in the order they run; ``pipeline`` contains the others."""

INDEXING_STAGES = ("parse", "chunk", "embed_batch", "write")
"""The stages of indexing a batch of documents."""

VOICE_STAGES = ("vad", "stt", "generation", "tts")
"""The stages of a spoken or written answer."""

StageSink = Callable[[str, float, bool], None]
"""``sink(name, duration_ms, failed)``."""

SpanFactory = Callable[[str], AbstractContextManager[object] | None]
"""Opens the span of the stage of that name, as the current one; ``None`` in a trace that is not recorded."""


@dataclass(slots=True)
class Recording:
    """The stages that ran inside one `recording`, in milliseconds. A stage that ran twice is summed."""

    durations_ms: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, duration_ms: float) -> None:
        self.durations_ms[name] = self.durations_ms.get(name, 0.0) + duration_ms


_sinks: list[StageSink] = []
_recording: ContextVar[Recording | None] = ContextVar("recording", default=None)
_broken_sinks: set[StageSink] = set()
_open_span: SpanFactory | None = None


def register_sink(sink: StageSink) -> None:
    """Add a sink, once."""
    if sink not in _sinks:
        _sinks.append(sink)


def trace_stages(open_span: SpanFactory | None) -> None:
    """Make each stage a span from now on; ``None``: no longer."""
    global _open_span
    _open_span = open_span


@contextmanager
def recording() -> Iterator[Recording]:
    """Collect the durations of every stage that runs inside this block, in this context."""
    current = Recording()
    token = _recording.set(current)
    try:
        yield current
    finally:
        _recording.reset(token)


class stage:  # noqa: N801  (it is used as a function is)
    """Time a block. The duration counts also when the block raises; the sinks then hear ``failed=True``.

    A class, as a generator's context manager costs twice as much: `bench/instrumentation.py`.
    """

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._span = None if _open_span is None else _open_span(self._name)
        if self._span is not None:
            self._span.__enter__()
        self._started = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        duration_ms = (perf_counter() - self._started) * 1000
        if self._span is not None:
            self._span.__exit__(kind, error, traceback)
        current = _recording.get()
        if current is not None:
            current.add(self._name, duration_ms)
        _tell(self._name, duration_ms, kind is not None)


def stage_ended(name: str, started: float, *, failed: bool = False) -> None:
    """A stage that began at ``started`` (of `time.perf_counter`) and ends now, elsewhere than it began: where a block
    can't be, as between a call and its callback. No span.
    """
    _tell(name, (perf_counter() - started) * 1000, failed)


class begun_stage:  # noqa: N801  (beside `stage`)
    """A stage that begins now and is ended elsewhere, on any thread, once. Its span is below the one that is current
    now.
    """

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name
        self._span = BegunSpan(None if _open_span is None else _open_span(name))
        self._started = perf_counter()

    def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns; spans that it opens are below the stage's."""
        return self._span.run(work)

    def end(self, error: BaseException | None = None, *, counts: bool = True) -> None:
        """``counts=False``: it was given up, or its time is counted by other means, and no sink hears of it."""
        if counts:
            _tell(self._name, (perf_counter() - self._started) * 1000, error is not None)
        self._span.end(error)


def _tell(name: str, duration_ms: float, failed: bool) -> None:
    for sink in _sinks:
        try:
            sink(name, duration_ms, failed)
        except Exception:
            if sink not in _broken_sinks:
                _broken_sinks.add(sink)
                logger.exception("A stage sink failed; its further failures are not logged")
