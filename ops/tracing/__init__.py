"""Traces by OpenTelemetry: off unless the standard ``OTEL_*`` variables ask for them, and then not even imported.

`start` turns them on for this process. What follows does nothing before that, at the cost of a comparison.
"""

from __future__ import annotations

from typing import Any, Protocol

from ops.contracts.env import Environment, hand_over
from ops.contracts.facts import trace_facts
from ops.contracts.model_calls import trace_calls
from ops.contracts.stage import trace_stages


class Tracing(Protocol):
    """What `ops.tracing.provider` offers once it is loaded."""

    def is_recorded(self) -> bool: ...
    def current_ids(self) -> dict[str, str]: ...
    def identify_request(self, request_id: str) -> None: ...
    def name_request(self, method: str, route: str) -> None: ...
    def record_error(self, error: BaseException) -> None: ...
    def wrap_asgi(self, application: Any) -> Any: ...
    def close(self) -> None: ...


_tracing: Tracing | None = None


def is_wanted(environment: Environment) -> bool:
    """Whether an exporter or the address of a collector is set, and the SDK is not disabled."""
    if environment["OTEL_SDK_DISABLED"]:
        return False
    exporter = environment["OTEL_TRACES_EXPORTER"]
    if exporter is None:
        endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        return any(environment[name] is not None for name in endpoints)
    return bool(exporter != "none")


def start(environment: Environment, role: str) -> bool:
    """Trace this process from now on, if that is wanted; whether it is. Safe to call twice.

    ``role``: what the process does, such as ``web`` or ``worker``.
    """
    global _tracing
    if _tracing is None and is_wanted(environment):
        hand_over(environment, "OTEL_")
        from ops.tracing.provider import OpenTelemetry

        tracing = OpenTelemetry(role, environment["OTEL_TRACES_EXPORTER"] or "otlp")
        trace_stages(tracing.open_stage)
        trace_calls(tracing.open_call)
        trace_facts(tracing.describe)
        _tracing = tracing
    return _tracing is not None


def is_recorded() -> bool:
    """Whether what begins now may become a span."""
    return _tracing is not None and _tracing.is_recorded()


def stop() -> None:
    """Export what is left and trace no longer."""
    global _tracing
    if _tracing is not None:
        trace_stages(None)
        trace_calls(None)
        trace_facts(None)
        _tracing.close()
        _tracing = None


def current_ids() -> dict[str, str]:
    """``trace_id`` and ``span_id`` of the current span as W3C writes them; empty outside of a trace."""
    return {} if _tracing is None else _tracing.current_ids()


def identify_request(request_id: str) -> None:
    """Put the request's id, by which logs and tables know it, on its span."""
    if _tracing is not None:
        _tracing.identify_request(request_id)


def name_request(method: str, route: str) -> None:
    """Name the span of the HTTP request by its route, which is known once a view is found."""
    if _tracing is not None:
        _tracing.name_request(method, route)


def record_error(error: BaseException) -> None:
    """Put an exception that was turned into an answer on the current span, and mark the span as failed."""
    if _tracing is not None:
        _tracing.record_error(error)


def traced_asgi(application: Any) -> Any:
    """The ASGI application with a span for each request and websocket session; itself while tracing is off."""
    return application if _tracing is None else _tracing.wrap_asgi(application)
