"""One trace from the HTTP request to the task, the SQL and the stages, received as OTLP from the whole product."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.collector import Span, collector
from tests.serving import Zenglow

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

MakeZenglow = Callable[..., Zenglow]

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{CALLER}-00f067aa0ba902b7-01"
QUERY = "How do bees dance? ada@example.org asks"
DOCUMENTS = {"bees": "Bees dance to tell each other where flowers are. The angle of the dance is that to the sun."}


def test_one_trace_leads_from_the_request_through_the_task_to_its_sql(make_zenglow: MakeZenglow) -> None:
    with collector() as collected:
        zenglow = make_zenglow(
            OTEL_EXPORTER_OTLP_ENDPOINT=collected.endpoint,
            OTEL_EXPORTER_OTLP_HEADERS="x-tenant=bees",
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            OTEL_BSP_SCHEDULE_DELAY="200",
        )
        zenglow.start()
        run = zenglow.index(DOCUMENTS, traceparent=TRACEPARENT, x_correlation_id="order-7")
        zenglow.finished(run)
        answer = zenglow.query(QUERY)
        assert answer.status == 200

        def is_whole(spans: list[Span]) -> bool:
            written = any(one.trace_id == CALLER and one.attributes.get("zenglow.stage") == "write" for one in spans)
            asked = any(one.attributes.get("http.route") == "/rag/query2" for one in spans)
            return written and asked and _are_closed(spans)

        spans = collected.wait_for(is_whole)
        assert all(headers["x-tenant"] == "bees" for headers in collected.headers)
        ended = zenglow.end()
        spans = collected.spans
    assert ended == 0

    # In: the caller's trace goes on here, in the web server and in the worker.
    ours = [one for one in spans if one.trace_id == CALLER]
    by_id = {one.span_id: one for one in ours}
    (server,) = (one for one in ours if one.kind == "server")
    assert (server.name, server.parent_id) == ("POST /rag/documents", TRACEPARENT.split("-")[2])
    assert server.attributes["http.request.method"] == "POST"
    assert server.attributes["http.response.status_code"] == 202
    assert server.resource["service.name"] == "zenglow"
    assert server.resource["deployment.environment.name"] == "test"
    assert server.resource["zenglow.role"] == "web"
    tasks = [one for one in ours if one.kind == "consumer"]
    assert {one.resource["zenglow.role"] for one in tasks} == {"worker"}
    statements = [one for one in ours if one.attributes.get("db.system.name") == "postgresql"]
    assert {one.resource["zenglow.role"] for one in statements} == {"web", "worker"}
    assert [one for one in ours if one.attributes.get("zenglow.stage") == "write"]
    assert all(_is_below(one, server, by_id) for one in ours if one is not server)

    # A query's stages are spans with their SQL below them, and the facts of the answer are on the request's.
    (asked,) = (one for one in spans if one.attributes.get("http.route") == "/rag/query2")
    trace = {one.span_id: one for one in spans if one.trace_id == asked.trace_id}
    stages = {one.attributes["zenglow.stage"]: one for one in trace.values() if "zenglow.stage" in one.attributes}
    assert set(stages) == {"pipeline", "embed", "retrieval", "feature", "ltr", "fusion"}
    assert stages["retrieval"].parent_id == stages["pipeline"].span_id
    assert [one for one in trace.values() if one.parent_id == stages["retrieval"].span_id and one.kind == "client"]
    assert [
        one
        for one in trace.values()
        if one.attributes.get("db.system", one.attributes.get("db.system.name")) == "redis"
    ]
    (embedding,) = (one for one in trace.values() if one.attributes.get("gen_ai.operation.name") == "embeddings")
    assert embedding.parent_id == stages["embed"].span_id
    assert embedding.attributes["gen_ai.response.model"] == answer.body["models"]["embedder"]
    assert embedding.attributes["gen_ai.usage.input_tokens"] > 0
    assert asked.attributes["zenglow.variant"] == answer.body["variant"]
    assert asked.attributes["zenglow.cache"] == "none"
    assert asked.attributes["zenglow.request_id"] == answer.body["request_id"]

    # Nothing asks for spans of a worker that waits, and what somebody asked is in no span.
    assert not [one for one in spans if one.kind == "client" and not one.parent_id]
    sent = b"".join(collected.bodies)
    assert b"bees dance" not in sent
    assert b"ada@example.org" not in sent

    # The log of both processes leads to the trace, and the other way round.
    lines = _lines(zenglow, "web.log", "request")
    (posted,) = (one for one in lines if one["path"] == "/rag/documents")
    assert (posted["trace_id"], posted["span_id"]) == (CALLER, server.span_id)
    assert posted["correlation_id"] == "order-7"
    (line,) = (one for one in lines if one["path"] == "/rag/query2")
    assert line["request_id"] == answer.body["request_id"]
    assert line["query_hmac"] == asked.attributes["zenglow.query_hmac"]
    assert (line["variant"], line["cache"]) == (answer.body["variant"], "none")
    assert line["timings"]["pipeline_ms"] == answer.body["timings"]["pipeline_ms"]
    assert "bees dance" not in (zenglow.data_dir / "log" / "web.log").read_text()
    done = [one for one in _lines(zenglow, "worker.log", "task") if one["correlation_id"] == "order-7"]
    assert {one["trace_id"] for one in done} == {CALLER}
    assert {one["request_id"] for one in done} == {posted["request_id"]}
    assert {one["state"] for one in done} == {"SUCCESS"}


def _are_closed(spans: list[Span]) -> bool:
    """Whether every span's parent is there, but for the caller's own."""
    known = {one.span_id for one in spans} | {"", TRACEPARENT.split("-")[2]}
    return all(one.parent_id in known for one in spans)


def _is_below(span: Span, ancestor: Span, by_id: dict[str, Span]) -> bool:
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
        if span is ancestor:
            return True
    return False


def _lines(zenglow: Zenglow, log: str, event: str) -> list[dict[str, object]]:
    text = (zenglow.data_dir / "log" / log).read_text()
    entries = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [entry for entry in entries if entry["event"] == event]
