"""Traces: off without a trace of the SDK, on by the standard variables, scrubbed before they leave."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from ops import tracing
from ops.contracts.env import declared, load
from ops.contracts.facts import collecting, note, trace_facts
from ops.contracts.stage import begun_stage, stage, trace_stages
from ops.tracing.scrubbing import ScrubbingExporter
from tests.collector import collector
from zenglow_site.environment import BASE_DIR

KEY = "zg_abcdefghij_" + "s" * 43


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}, False),
        ({"ZENGLOW_ENV": "staging"}, True),
        ({"ZENGLOW_ENV": "prod"}, False),
    ],
)
def test_the_standard_variables_decide_whether_there_are_traces(variables: dict[str, str], wanted: bool) -> None:
    assert tracing.is_wanted(load(variables)) is wanted


def test_it_refuses_a_transport_that_is_not_installed() -> None:
    (error,) = load({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}).errors
    assert "must be one of http/protobuf" in error.message


NOT_LOADED = (
    "opentelemetry.sdk.trace",
    "opentelemetry.exporter",
    "opentelemetry.instrumentation",
    "opentelemetry.proto",
)


def test_a_server_without_traces_imports_nothing_that_makes_or_sends_them() -> None:
    """The Redis client alone imports the API and the SDK's metrics wherever they are installed."""
    code = (
        "import sys, django; django.setup(); import zenglow_site.celery, ops.middleware, ops.sockets.log, rag.tasks\n"
        "from django.conf import settings; from ops import tracing\n"
        "assert not tracing.start(settings.ENVIRONMENT, 'web')\n"
        "assert tracing.traced_asgi(print) is print and tracing.current_ids() == {}\n"
        f"print([name for name in sys.modules if name.startswith({NOT_LOADED!r})])"
    )
    environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_the_sdk_gets_what_was_declared_from_wherever_it_came(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import os

    from ops.contracts.env import hand_over

    dotenv = tmp_path / ".env"
    dotenv.write_text("OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318\n")
    secret = tmp_path / "headers"
    secret.write_text("authorization=Basic%20abc\n")
    for variable in declared():
        if variable.name.startswith("OTEL_"):
            monkeypatch.setenv(variable.name, "")
    hand_over(load({"OTEL_EXPORTER_OTLP_HEADERS_FILE": str(secret), "ZENGLOW_ENV": "prod"}, dotenv=dotenv), "OTEL_")
    assert os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector:4318"
    assert os.environ["OTEL_EXPORTER_OTLP_HEADERS"] == "authorization=Basic%20abc"
    assert os.environ["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
    assert os.environ["OTEL_TRACES_SAMPLER_ARG"] == "0.01"
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == "http,database"
    assert os.environ["OTEL_SDK_DISABLED"] == "false"


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    """What leaves a provider whose exporter scrubs."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ScrubbingExporter(exporter)))
    tracer = provider.get_tracer("tests")
    trace_stages(tracer.start_as_current_span)
    yield exporter
    trace_stages(None)
    trace_facts(None)
    provider.shutdown()


def test_a_stage_that_ends_on_another_thread_is_a_span_below_where_it_began(exported: InMemorySpanExporter) -> None:
    with stage("pipeline"):
        inner, failed, given_up = begun_stage("stt"), begun_stage("tts"), begun_stage("tts")
    for end in (inner.end, lambda: failed.end(ValueError("no voice")), lambda: given_up.end(counts=False)):
        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
    outer, first, second, third = exported.get_finished_spans()
    assert {one.parent.span_id for one in (first, second, third) if one.parent} == {outer.get_span_context().span_id}
    assert [one.status.status_code for one in (first, second, third)] == [
        StatusCode.UNSET,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]


def one_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    (span,) = exporter.get_finished_spans()
    return span


class TestScrubbing:
    def test_it_scrubs_attributes_by_content_and_by_name(self, exported: InMemorySpanExporter) -> None:
        with stage("embed"):
            span = trace.get_current_span()
            span.set_attributes(
                {
                    "db.query.text": "SELECT 1 WHERE mail = 'ada@example.org' AND id = %s",
                    "http.request.header.authorization": ["Bearer abc"],
                    "zenglow.password": "x",
                    "client.address": "203.0.113.7",
                    "server.address": "127.0.0.1",
                    "http.response.status_code": 200,
                    "messages": ["a", "ada@example.org"],
                }
            )
        assert dict(one_span(exported).attributes or {}) == {
            "db.query.text": "SELECT 1 WHERE mail = '[email]' AND id = %s",
            "http.request.header.authorization": "[redacted]",
            "zenglow.password": "[redacted]",
            "client.address": "[ip]",
            "server.address": "127.0.0.1",
            "http.response.status_code": 200,
            "messages": ["a", "[email]"],
        }

    def test_no_query_of_a_url_leaves(self, exported: InMemorySpanExporter) -> None:
        with stage("embed"):
            trace.get_current_span().set_attributes(
                {
                    "url.full": "https://ada:lovelace@host.example/a?q=what+somebody+asked#x",
                    "http.target": "/search/?q=what+somebody+asked",
                    "url.query": "q=what+somebody+asked",
                    "url.path": "/search/",
                }
            )
        assert dict(one_span(exported).attributes or {}) == {
            "url.full": "https://ada:[secret]@host.example/a",
            "http.target": "/search/",
            "url.path": "/search/",
        }

    def test_errors_are_scrubbed_with_their_tracebacks(self, exported: InMemorySpanExporter) -> None:
        with pytest.raises(ValueError, match="ada"), stage("embed"):
            raise ValueError(f"no user ada@example.org for {KEY}")
        span = one_span(exported)
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description == "ValueError: no user [email] for zg_abcdefghij_[secret]"
        ((event),) = span.events
        assert (event.attributes or {})["exception.message"] == "no user [email] for zg_abcdefghij_[secret]"
        assert "ada@" not in str(event.attributes)
        assert "ssss" not in str(event.attributes)

    def test_what_identifies_a_span_stays(self, exported: InMemorySpanExporter) -> None:
        with stage("outer"), stage("inner"):
            pass
        inner, outer = exported.get_finished_spans()
        assert inner.parent is not None
        assert outer.context is not None
        assert inner.parent.span_id == outer.context.span_id
        assert (inner.end_time or 0) >= (inner.start_time or 0) > 0


CALLS_OUT = """
import sys, django, httpx
django.setup()
from ops import tracing
from ops.contracts.env import load
from ops.contracts.model_calls import model_call
from ops.contracts.stage import stage
endpoint, target = sys.argv[1:]
assert tracing.start(load({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}), "command")
assert tracing.current_ids() == {}
with stage("generation"), model_call(
    "llm", "ollama/mistral:7b", "answer", items=1, provider="ollama", temperature=0.0, max_tokens=400
) as call:
    call.tokens, call.output_tokens, call.finish_reason = 12, 5, "length"
    httpx.get(target, params={"q": "what somebody asked"})
    print(tracing.current_ids()["trace_id"])
tracing.stop()
with stage("generation"):
    pass
"""


def test_a_call_of_another_server_carries_our_context_and_is_below_its_model_and_stage() -> None:
    seen: list[dict[str, str]] = []

    class Target(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()})
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Target)
    with collector() as collected, server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        target = f"http://127.0.0.1:{server.server_address[1]}/generate"
        environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", CALLS_OUT, collected.endpoint, target]
        done = subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=False)
        server.shutdown()
        thread.join()
    assert done.returncode == 0, done.stderr
    spans = {span.name: span for span in collected.spans}
    assert len(spans) == len(collected.spans) == 3
    stage_span, call, request = spans["stage generation"], spans["chat mistral:7b"], spans["GET"]
    assert {one.trace_id for one in spans.values()} == {done.stdout.strip()}
    assert (stage_span.parent_id, call.parent_id, request.parent_id) == ("", stage_span.span_id, call.span_id)
    *ids, flags = seen[0]["traceparent"].split("-")
    assert (ids, int(flags, 16) & 1) == (["00", request.trace_id, request.span_id], 1)
    assert request.attributes["url.full"] == target
    assert request.attributes["http.response.status_code"] == 204
    assert {name: value for name, value in call.attributes.items() if name.startswith("gen_ai.")} == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "ollama",
        "gen_ai.request.model": "mistral:7b",
        "gen_ai.response.model": "mistral:7b",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.max_tokens": 400,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 5,
    }
    assert call.resource["zenglow.role"] == "command"


SOCKET = """
import asyncio, sys, django
django.setup()
from channels.testing import WebsocketCommunicator
from ops import tracing
from ops.contracts.env import load
from ops.contracts.stage import stage
from ops.sockets.log import SocketLog
tracing.start(load({"OTEL_EXPORTER_OTLP_ENDPOINT": sys.argv[1]}), "web")

async def consumer(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] == "websocket.receive":
        with stage("stt"):
            await send({"type": "websocket.send", "text": tracing.current_ids()["trace_id"]})

async def talk():
    headers = [(b"traceparent", sys.argv[2].encode())]
    session = WebsocketCommunicator(tracing.traced_asgi(SocketLog(consumer)), "/ws/voice?q=asked", headers=headers)
    await session.connect(timeout=60)
    await session.send_to(text_data="hello")
    print(await session.receive_from(timeout=60))
    await session.disconnect(timeout=60)

asyncio.run(talk())
tracing.stop()
"""


def test_a_websocket_session_is_a_span_with_its_stages_below_it() -> None:
    trace_id, parent_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with collector() as collected:
        command = [sys.executable, "-c", SOCKET, collected.endpoint, f"00-{trace_id}-{parent_id}-01"]
        environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "/usr/bin:/bin"}
        done = subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == trace_id
    session, heard = sorted(collected.spans, key=lambda span: span.kind, reverse=True)
    assert (session.kind, session.trace_id, session.parent_id) == ("server", trace_id, parent_id)
    assert (heard.name, heard.parent_id) == ("stage stt", session.span_id)
    assert "asked" not in str(collected.spans)
    (line,) = (line for line in done.stderr.splitlines() if "zenglow.websocket" in line)
    assert json.loads(line)["trace_id"] == trace_id


def test_what_is_noted_reaches_the_line_and_the_span() -> None:
    seen: list[dict[str, Any]] = []
    trace_facts(lambda facts: seen.append(dict(facts)))
    note(variant="nobody's")
    with collecting() as facts:
        note(variant="canary")
        note(cache="full")
    trace_facts(None)
    note(variant="unseen")
    assert facts == {"variant": "canary", "cache": "full"}
    assert seen == [{"variant": "nobody's"}, {"variant": "canary"}, {"cache": "full"}]
