"""What is not recorded costs little: of a trace that was not sampled, nothing is prepared that a span would need.

The SDK decides when a span begins, after its name and attributes were put together and a span that records nothing was
made: for a search of which one in a hundred is recorded that took a millisecond of all of them. Here the decision for a
request is made first, and what belongs to a request that is not recorded asks for no spans.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from opentelemetry import context, propagate, trace
from opentelemetry.instrumentation.asgi import asgi_getter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, StaticSampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags

Application = Callable[..., Awaitable[None]]

_chosen_trace: ContextVar[int | None] = ContextVar("chosen_trace", default=None)


class TraceIds(RandomIdGenerator):
    """Random ids, but for the trace of a request that was decided on already."""

    def generate_trace_id(self) -> int:
        chosen = _chosen_trace.get()
        return super().generate_trace_id() if chosen is None else chosen


def is_by_trace(provider: TracerProvider) -> bool:
    """Whether all spans of a trace in this process share one decision, as by each of the standard samplers."""
    return isinstance(provider.sampler, ParentBased | StaticSampler | TraceIdRatioBased)


def is_left_out() -> bool:
    """Whether a span that begins now would be below one of this process that was not sampled.

    One that was may have ended: what goes on after it is recorded below it.
    """
    parent = trace.get_current_span().get_span_context()
    return parent.is_valid and not parent.is_remote and not parent.trace_flags.sampled


class SampledRequests:
    """An ASGI application: each request goes to ``recorded``, or with a context that records nothing to ``plain``.

    Paths that begin with one of ``untraced`` go to ``plain`` outside of any trace. A sampler that is not one of the
    standard ones decides for itself, in ``recorded``.
    """

    def __init__(
        self, plain: Application, recorded: Application, provider: TracerProvider, untraced: tuple[str, ...]
    ) -> None:
        self._plain = plain
        self._recorded = recorded
        self._provider = provider
        self._untraced = untraced
        self._is_by_trace = is_by_trace(provider)
        self._fields = frozenset(name.lower().encode() for name in propagate.get_global_textmap().fields)

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] not in {"http", "websocket"} or scope["path"].startswith(self._untraced):
            return await self._plain(scope, receive, send)
        if not self._is_by_trace:
            return await self._recorded(scope, receive, send)
        callers = context.Context()
        if any(name in self._fields for name, _ in scope["headers"]):
            callers = propagate.extract(scope, callers, asgi_getter)  # type: ignore[misc]
        parent = trace.get_current_span(callers).get_span_context()
        ids = self._provider.id_generator
        trace_id = parent.trace_id if parent.is_valid else ids.generate_trace_id()
        decided = self._provider.sampler.should_sample(callers, trace_id, scope["path"], SpanKind.SERVER)
        if decided.decision is not Decision.DROP:
            chosen = _chosen_trace.set(None if parent.is_valid else trace_id)
            try:
                return await self._recorded(scope, receive, send)
            finally:
                _chosen_trace.reset(chosen)
        is_random = parent.trace_flags.random_trace_id if parent.is_valid else ids.is_trace_id_random()
        flags = TraceFlags(TraceFlags.RANDOM_TRACE_ID if is_random else TraceFlags.DEFAULT)
        unrecorded = SpanContext(trace_id, ids.generate_span_id(), False, flags, decided.trace_state)
        attached = context.attach(trace.set_span_in_context(NonRecordingSpan(unrecorded), callers))
        try:
            return await self._plain(scope, receive, send)
        finally:
            context.detach(attached)
