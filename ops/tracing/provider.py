"""The OpenTelemetry SDK, set up: imported only when traces are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)
from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import HTTP_ROUTE
from opentelemetry.trace import SpanKind, StatusCode

from ops.contracts.model_calls import ModelCall
from ops.tracing import sampling
from ops.tracing.database import trace_database
from ops.tracing.scrubbing import ScrubbingExporter

STAGE = "zenglow.stage"
"""The attribute with a stage's name, and the beginning of our other attributes' names."""

REQUEST_ID = "zenglow.request_id"

_EXPORTERS: Mapping[str, type[SpanExporter]] = {"otlp": OTLPSpanExporter, "console": ConsoleSpanExporter}
_OPERATIONS = {"embedder": "embeddings", "llm": "chat"}
"""Kinds of models that have a name in the conventions; others go by what was asked of them, such as ``rank``."""

_NOT_TRACED = ("/health/live", "/health/ready", "/metrics", "/ws/metrics", "/static/")
"""Beginnings of the paths that machines ask all day long."""


class OpenTelemetry:
    """`ops.tracing.Tracing`, over the SDK.

    Address, headers, time-outs, sampler and batch sizes are read by the SDK itself, from the standard variables.
    """

    def __init__(self, role: str, exporter: str) -> None:
        resource = Resource.create({"zenglow.role": role})
        self.provider = TracerProvider(resource=resource, id_generator=sampling.TraceIds())
        self._is_sampled_by_trace = sampling.is_by_trace(self.provider)
        self.provider.add_span_processor(_WithoutLonelyCalls(ScrubbingExporter(_EXPORTERS[exporter]())))
        trace.set_tracer_provider(self.provider)
        self._tracer = self.provider.get_tracer("zenglow")
        trace_database(self.provider, self.is_recorded)
        for instrumentor in _instrumentors():
            instrumentor.instrument(tracer_provider=self.provider)

    def is_recorded(self) -> bool:
        """Whether a span that begins now may be recorded."""
        return not (self._is_sampled_by_trace and sampling.is_left_out())

    def open_stage(self, name: str) -> AbstractContextManager[object] | None:
        if not self.is_recorded():
            return None
        return self._tracer.start_as_current_span(f"stage {name}", attributes={STAGE: name})

    def open_call(self, call: ModelCall) -> AbstractContextManager[object] | None:
        return self._call_span(call) if self.is_recorded() else None

    @contextmanager
    def _call_span(self, call: ModelCall) -> Iterator[None]:
        """By the semantic conventions for generative AI, whose names are those of all model calls here."""
        operation = _OPERATIONS.get(call.kind, call.operation or call.kind)
        # A server's model is asked for by the server's own name; ours goes by the provider too, as "ollama/mistral".
        prefix = f"{call.provider}/"
        name = call.name.removeprefix(prefix)
        attributes: dict[str, str | int | float] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": call.provider,
            "gen_ai.request.model": name,
            "gen_ai.response.model": call.model.removeprefix(prefix),
        }
        if call.temperature is not None:
            attributes["gen_ai.request.temperature"] = call.temperature
        if call.max_tokens is not None:
            attributes["gen_ai.request.max_tokens"] = call.max_tokens
        with self._tracer.start_as_current_span(f"{operation} {name}", attributes=attributes) as span:
            try:
                yield
            except Exception as error:
                span.set_attribute(ERROR_TYPE, type(error).__qualname__)
                raise
            finally:
                if call.tokens:
                    span.set_attribute("gen_ai.usage.input_tokens", call.tokens)
                if call.output_tokens:
                    span.set_attribute("gen_ai.usage.output_tokens", call.output_tokens)
                if call.finish_reason:
                    span.set_attribute("gen_ai.response.finish_reasons", [call.finish_reason])
                span.set_attributes({"zenglow.model.kind": call.kind, "zenglow.model.items": call.items})
                if call.batch_size:
                    span.set_attribute("zenglow.model.batch_size", call.batch_size)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Facts as attributes of the current span; those that are neither text, number nor truth are left out."""
        span = trace.get_current_span()
        if span.is_recording():
            for name, value in facts.items():
                if isinstance(value, str | bool | int | float):
                    span.set_attribute(f"zenglow.{name}", value)

    def current_ids(self) -> dict[str, str]:
        context = trace.get_current_span().get_span_context()
        if not context.is_valid:
            return {}
        return {"trace_id": trace.format_trace_id(context.trace_id), "span_id": trace.format_span_id(context.span_id)}

    def identify_request(self, request_id: str) -> None:
        trace.get_current_span().set_attribute(REQUEST_ID, request_id)

    def name_request(self, method: str, route: str) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.update_name(f"{method} {route}")
            span.set_attribute(HTTP_ROUTE, route)

    def record_error(self, error: BaseException) -> None:
        span = trace.get_current_span()
        if span.is_recording():
            span.record_exception(error)
            span.set_attribute(ERROR_TYPE, type(error).__qualname__)
            span.set_status(StatusCode.ERROR, str(error))

    def wrap_asgi(self, application: Any) -> Any:
        recorded = OpenTelemetryMiddleware(
            application,
            tracer_provider=self.provider,
            # A span for each message would tell less than it costs.
            exclude_spans=["receive", "send"],
        )
        return sampling.SampledRequests(application, recorded, self.provider, _NOT_TRACED)

    def close(self) -> None:
        for instrumentor in _instrumentors():
            instrumentor.uninstrument()
        self.provider.shutdown()


def _instrumentors() -> tuple[BaseInstrumentor, ...]:
    celery: BaseInstrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]
    return RedisInstrumentor(), celery, HTTPXClientInstrumentor()


class _WithoutLonelyCalls(BatchSpanProcessor):
    """Exports no call of a store that belongs to no request or task: a worker that waits for work makes many."""

    def __init__(self, exporter: SpanExporter) -> None:
        super().__init__(exporter)
        self._lonely: set[int] = set()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if span.kind is SpanKind.CLIENT and (span.parent is None or span.parent.span_id in self._lonely):
            self._lonely.add(span.get_span_context().span_id)

    def on_end(self, span: ReadableSpan) -> None:
        span_id = span.context.span_id if span.context is not None else 0
        if span_id in self._lonely:
            self._lonely.discard(span_id)
        else:
            super().on_end(span)
