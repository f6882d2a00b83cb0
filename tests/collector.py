"""A small OpenTelemetry collector: a real HTTP server that takes OTLP as any other does, and keeps what it got."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.patience import PATIENCE_S


@dataclass(frozen=True, slots=True)
class Span:
    """A received span; ids in hexadecimal digits, ``parent_id`` empty for a root."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: str
    scope: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]
    failed: bool


class Collector:
    """What arrived, and the headers that it came with."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.port = 0
        self._arrived = threading.Condition()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces", path
        with self._arrived:
            self.headers.append(headers)
            self.bodies.append(body)
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
            self._arrived.notify_all()

    def wait_for(self, is_there: Callable[[list[Span]], bool]) -> list[Span]:
        """The spans, once they are what is waited for."""
        with self._arrived:
            self._arrived.wait_for(lambda: is_there(self.spans), PATIENCE_S)
            assert is_there(self.spans), "\n".join(f"{one.trace_id[:8]} {one.kind} {one.name}" for one in self.spans)
            return list(self.spans)


@contextmanager
def collector() -> Iterator[Collector]:
    collected = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            collected.take(self.path, dict(self.headers), body)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collected.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield collected
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for of_resource in request.resource_spans:
        resource = _values(of_resource.resource.attributes)
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield Span(
                    name=span.name,
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    kind=type(span).SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
                    scope=of_scope.scope.name,
                    attributes=_values(span.attributes),
                    resource=resource,
                    events=[(event.name, _values(event.attributes)) for event in span.events],
                    failed=span.status.code == 2,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value") or "string_value"
    return [_value(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
