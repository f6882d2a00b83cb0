"""``with model_call("embedder", "all-MiniLM-L6-v2@1") as call:`` stands around each call of a model version.

The finished call is handed to every registered sink: Prometheus, the registry's rolling statistics. As with
`ops.contracts.stage`, a sink must be quick and must not raise; one that raises is logged once and breaks no request.
While tracing is on the block is a span as well.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from ops.contracts.begun import BegunSpan

logger = logging.getLogger(__name__)

OWN = "zenglow"
"""The provider of models that run in our own processes."""


@dataclass(slots=True)
class ModelCall:
    """One call of a model version. Whoever makes it fills in what it is about, before the block ends."""

    kind: str
    """A slot of the registry: ``embedder``, ``ltr``, and what other apps bring."""
    model: str
    """``name@number``."""
    operation: str = ""
    """What was asked of it: ``query`` or ``documents`` of an embedder, ``rank`` of a ranker."""
    items: int = 0
    """Texts, candidates, …: what the call was asked to work on."""
    tokens: int = 0
    """The model's own tokens of its input, truncated as the model truncates; 0 where there are none."""
    output_tokens: int = 0
    """The model's own tokens of what it wrote; 0 where it writes nothing, or does not tell."""
    batch_size: int = 0
    """Items that the model worked on at once, of other callers included; 0 where that is not known."""
    provider: str = OWN
    """Whose model it is, by the semantic conventions where they have a name: ``openai`` of any server that speaks its
    protocol; ``ollama`` they do not have."""
    temperature: float | None = None
    """As it was asked for; ``None`` of a model that takes none."""
    max_tokens: int | None = None
    """The most tokens that it was asked to write; ``None`` of a model that writes none."""
    finish_reason: str = ""
    """Why a model that writes ended: ``stop``, ``length``, ``tool_calls``; empty where it did not come to that."""
    error: str = ""
    """Name of the exception that ended the call; empty when it went well."""
    started_at_ns: int = 0
    """Nanoseconds since the epoch, as `time.time_ns`."""
    duration_ms: float = 0.0
    """As the caller saw it: with the wait for a turn."""

    @property
    def name(self) -> str:
        return self.model.rpartition("@")[0] or self.model

    @property
    def version(self) -> str:
        return self.model.rpartition("@")[2] if "@" in self.model else ""


CallSink = Callable[[ModelCall], None]

CallSpan = Callable[[ModelCall], AbstractContextManager[object] | None]
"""Opens the span of a call, as the current one; what the call says of itself is read when the span ends. ``None`` in a
trace that is not recorded."""

_sinks: list[CallSink] = []
_broken_sinks: set[CallSink] = set()
_open_span: CallSpan | None = None


def register_call_sink(sink: CallSink) -> None:
    """Add a sink, once. It hears of each call when it has ended, in the caller's context."""
    if sink not in _sinks:
        _sinks.append(sink)


def trace_calls(open_span: CallSpan | None) -> None:
    """Make each call a span from now on; ``None``: no longer."""
    global _open_span
    _open_span = open_span


@contextmanager
def model_call(
    kind: str,
    model: str,
    operation: str = "",
    *,
    items: int = 0,
    provider: str = OWN,
    temperature: float | None = None,
    max_tokens: int | None = None,
) -> Iterator[ModelCall]:
    """Time a call. One that raises is handed on as well, with its `ModelCall.error`."""
    call = ModelCall(
        kind,
        model,
        operation,
        items=items,
        provider=provider,
        temperature=temperature,
        max_tokens=max_tokens,
        started_at_ns=time.time_ns(),
    )
    started = time.perf_counter()
    try:
        with (None if _open_span is None else _open_span(call)) or nullcontext():
            yield call
    except Exception as error:
        call.error = type(error).__name__
        raise
    finally:
        call.duration_ms = (time.perf_counter() - started) * 1000
        _hand_on(call)


class begun_call:  # noqa: N801  (beside `model_call`)
    """A call that begins now and is ended elsewhere, on any thread, once. Its span is below the one that is current
    now.
    """

    __slots__ = ("_call", "_span", "_started")

    def __init__(self, kind: str, model: str, operation: str = "", *, items: int = 0) -> None:
        self._call = ModelCall(kind, model, operation, items=items, started_at_ns=time.time_ns())
        self._span = BegunSpan(None if _open_span is None else _open_span(self._call))
        self._started = time.perf_counter()

    def end(self, error: BaseException | None = None, *, counts: bool = True) -> None:
        """``counts=False``: it was given up, and no sink hears of it."""
        self._call.duration_ms = (time.perf_counter() - self._started) * 1000
        if error is not None:
            self._call.error = type(error).__name__
        self._span.end(error)
        if counts:
            _hand_on(self._call)


def note_failed_call(kind: str, model: str, operation: str, error: Exception) -> None:
    """A call that could not even be made, because the version can't be loaded."""
    _hand_on(ModelCall(kind, model, operation, error=type(error).__name__, started_at_ns=time.time_ns()))


def _hand_on(call: ModelCall) -> None:
    for sink in _sinks:
        try:
            sink(call)
        except Exception:
            if sink not in _broken_sinks:
                _broken_sinks.add(sink)
                logger.exception("A sink of model calls failed; its further failures are not logged")
