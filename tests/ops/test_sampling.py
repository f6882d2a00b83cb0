"""Traces of which only some are recorded: the others keep their ids, and cost no spans."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from ops.tracing.sampling import is_left_out
from tests.collector import Span, collector
from tests.embedded.support import temporary_place
from zenglow_site.embedded.redis import EmbeddedRedis
from zenglow_site.environment import BASE_DIR

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLERS_SPAN = "00f067aa0ba902b7"

APPLICATION = """
import asyncio, json, sys, threading, django, httpx, redis
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
django.setup()
from asgiref.testing import ApplicationCommunicator
from ops import redis_line, tracing
from ops.contracts.env import load
from ops.contracts.model_calls import model_call
from ops.contracts.stage import begun_stage, stage
endpoint, where, path, requests = sys.argv[1:5]
assert tracing.start(load({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **json.loads(sys.argv[5])}), "web")
client = redis.Redis.from_url(where)
sent = []

class Elsewhere(BaseHTTPRequestHandler):
    def do_GET(self):
        sent.append(self.headers.get("traceparent", ""))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass

elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
threading.Thread(target=elsewhere.serve_forever, daemon=True).start()

async def application(scope, receive, send):
    with stage("pipeline"), model_call("llm", "mistral@7", "answer"):
        redis_line.begin(client, ("ECHO", "a"))()
        begun_stage("embed").end()
        httpx.get(f"http://127.0.0.1:{elsewhere.server_address[1]}/")
    ids = tracing.current_ids()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(
        {"ids": ids, "sent": sent.pop(), "recorded": tracing.is_recorded()}).encode()})

async def ask(headers):
    scope = {"type": "http", "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode(),
             "query_string": b"", "scheme": "http", "server": ("localhost", 80), "client": ("127.0.0.1", 1),
             "root_path": "", "headers": [(name.encode(), value.encode()) for name, value in headers]}
    communicator = ApplicationCommunicator(tracing.traced_asgi(application), scope)
    await communicator.send_input({"type": "http.request", "body": b""})
    await communicator.receive_output(60)
    return json.loads((await communicator.receive_output(60))["body"])

for headers in json.loads(requests):
    print(json.dumps(asyncio.run(ask(headers))))
tracing.stop()
"""


def run(
    requests: list[list[tuple[str, str]]], path: str = "/rag/query2", **variables: str
) -> tuple[list[dict[str, Any]], list[Span]]:
    """What an application says of each request, and the spans that it sent."""
    with collector() as collected, temporary_place() as place:
        server = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
        server.ensure()
        arguments = [collected.endpoint, server.url(0), path, json.dumps(requests), json.dumps(variables)]
        environment = {"DJANGO_SETTINGS_MODULE": "tests.settings", "PATH": "/usr/bin:/bin"}
        command = [sys.executable, "-c", APPLICATION, *arguments]
        done = subprocess.run(command, cwd=BASE_DIR, env=environment, capture_output=True, text=True, check=False)
        server.stop()
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], collected.spans


def parent(flags: str) -> list[tuple[str, str]]:
    return [("traceparent", f"00-{CALLER}-{CALLERS_SPAN}-{flags}")]


def test_a_trace_that_is_not_recorded_has_ids_hands_them_on_and_has_no_span() -> None:
    (said,), spans = run([[]], OTEL_TRACES_SAMPLER="parentbased_always_off")
    assert spans == []
    assert not said["recorded"]
    trace_id, span_id = said["ids"]["trace_id"], said["ids"]["span_id"]
    assert (len(trace_id), len(span_id)) == (32, 16)
    _, sent_trace, _, flags = said["sent"].split("-")
    assert sent_trace == trace_id
    assert int(flags, 16) & 1 == 0


def test_a_caller_who_does_not_record_is_followed_and_one_who_does_as_well() -> None:
    (unrecorded, recorded), spans = run([parent("00"), parent("01")], OTEL_TRACES_SAMPLER="parentbased_always_off")
    assert [said["ids"]["trace_id"] for said in (unrecorded, recorded)] == [CALLER, CALLER]
    assert [said["recorded"] for said in (unrecorded, recorded)] == [False, True]
    (server,) = (span for span in spans if span.kind == "server")
    assert (server.span_id, server.parent_id) == (recorded["ids"]["span_id"], CALLERS_SPAN)
    assert len(spans) == 6  # the request, its stages, its model, Redis, and the call of another server


def test_a_caller_who_does_not_record_is_not_asked_where_the_sampler_has_no_parents() -> None:
    (said,), spans = run([parent("00")], OTEL_TRACES_SAMPLER="always_on")
    assert said["recorded"]
    assert {span.trace_id for span in spans} == {CALLER}


@pytest.mark.parametrize("sampler", ["parentbased_traceidratio", "traceidratio"])
def test_a_part_of_the_traces_is_recorded_and_each_of_them_whole(sampler: str) -> None:
    said, spans = run([[]] * 60, OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0.5")
    recorded = {one["ids"]["trace_id"] for one in said if one["recorded"]}
    assert 10 < len(recorded) < 50  # by chance outside of it once in ten million
    by_trace = {trace_id: [span for span in spans if span.trace_id == trace_id] for trace_id in recorded}
    assert sum(map(len, by_trace.values())) == len(spans)
    assert {len(of_trace) for of_trace in by_trace.values()} == {6}
    assert all(one.parent_id == "" for one in spans if one.kind == "server")


def test_what_goes_on_after_its_span_has_ended_is_recorded_with_its_trace() -> None:
    with TracerProvider().get_tracer("tests").start_as_current_span("request") as request:
        request.end()
        assert not is_left_out()
    with TracerProvider(sampler=ALWAYS_OFF).get_tracer("tests").start_as_current_span("request"):
        assert is_left_out()
    assert not is_left_out()


def test_what_machines_ask_all_day_belongs_to_no_trace() -> None:
    (said,), spans = run([parent("01")], path="/health/live", OTEL_TRACES_SAMPLER="always_on")
    assert said["ids"] == {}
    assert not [span for span in spans if span.kind == "server"]
