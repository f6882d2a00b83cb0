"""Spans without personal data and secrets. Only imported when traces are wanted.

Done on the exporting thread, off the request's path, and over everything that any instrumentation may have added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from ops.scrub import scrub, scrub_value

_URLS = frozenset({"url.full", "http.url", "http.target"})
_DROPPED = frozenset({"url.query"})
"""Somebody's question may stand in it."""


class ScrubbingExporter(SpanExporter):
    """Hands copies of the spans on, with every text of theirs scrubbed."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return self._exporter.export([scrubbed_span(span) for span in spans])

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


def scrubbed_span(span: ReadableSpan) -> ReadableSpan:
    return ReadableSpan(
        name=scrub(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=scrubbed_attributes(span.attributes),
        events=[Event(event.name, scrubbed_attributes(event.attributes), event.timestamp) for event in span.events],
        links=[Link(link.context, scrubbed_attributes(link.attributes)) for link in span.links],
        kind=span.kind,
        status=_scrubbed_status(span.status),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def scrubbed_attributes(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """The attributes without personal data and secrets; URLs lose their query."""
    return {
        name: scrub(without_query(value)) if name in _URLS and isinstance(value, str) else scrub_value(value, name)
        for name, value in (attributes or {}).items()
        if name not in _DROPPED
    }


def without_query(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.partition("?")[0]
    return urlunsplit(parts._replace(query="", fragment=""))


def _scrubbed_status(status: Status) -> Status:
    # Only an error may have a description.
    return Status(status.status_code, scrub(status.description)) if status.description else Status(status.status_code)
