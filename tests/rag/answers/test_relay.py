"""Answers outlive the connection they are sent over, for whoever asked and for nobody else."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

import pytest
from django.db import connection

from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound, Unavailable
from rag.answers import relay, service
from rag.answers.contracts import Answer, AnswerRequest
from tests.patience import PATIENCE_S
from tests.rag.answers.model_server import ModelServer
from tests.rag.pipeline.support import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "bees", "agents")]

ASKER = person("asker")
QUESTION = AnswerRequest(query="What kills varroa mites in winter?", collection="bees", agent="bee")


@pytest.fixture(autouse=True)
def _on_this_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's transaction is this thread's."""

    async def here(work: Any) -> Any:
        try:
            return work()
        finally:
            # Within a task this may be a connection of its own, which nobody else would give back.
            if not connection.in_atomic_block:
                connection.close()

    monkeypatch.setattr(service, "in_thread", here)
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # these tests' one thread has the event loop, too


@pytest.fixture
def prepared(agents: None) -> service.Prepared:
    """The question with what was found for it: what is asked of the database is asked before there is an event loop."""
    return service.prepare(QUESTION, ASKER, request_id=str(uuid.uuid4()))


def begin(prepared: service.Prepared, **more: Any) -> tuple[str, relay.Running]:
    running = relay.start(QUESTION, ASKER, request_id=prepared.request_id, prepared=prepared, **more)
    return prepared.request_id, running


async def read(request_id: str, principal: Principal = ASKER, after: int = 0) -> list[relay.Event]:
    async with asyncio.timeout(PATIENCE_S):
        # As it is sent: JSON knows no tuples.
        events = [event async for event in relay.follow(request_id, principal, after)]
        return [(number, name, json.loads(json.dumps(data))) for number, name, data in events]


async def test_events_are_numbered_and_end_with_the_whole(prepared: service.Prepared) -> None:
    request_id, _ = begin(prepared)
    events = await read(request_id)
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert (events[0][1], events[-1][1]) == ("retrieval", "done")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_it_goes_on_where_it_was_left(
    prepared: service.Prepared, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, running = begin(prepared)
    whole = await read(request_id)
    assert running.task is not None
    await running.task
    if elsewhere:  # another process has it from Redis alone
        monkeypatch.setattr(relay, "_running", {})
    assert await read(request_id, after=3) == whole[3:]
    assert await read(request_id, after=len(whole) - 1) == whole[-1:]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_nobody_else_hears_it(
    prepared: service.Prepared, elsewhere: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    request_id, running = begin(prepared)
    assert running.task is not None
    await running.task
    if elsewhere:
        monkeypatch.setattr(relay, "_running", {})
    with pytest.raises(NotFound):
        await read(request_id, person("somebody else"))
    with pytest.raises(NotFound):
        await relay.stop(request_id, person("somebody else"))


async def test_an_unknown_answer_is_not_found() -> None:
    with pytest.raises(NotFound, match="no answer"):
        await read(str(uuid.uuid4()))


async def test_stopping_keeps_what_there_is_and_stops_the_server(
    prepared: service.Prepared, server: ModelServer
) -> None:
    server.fault = "endless"
    ended: list[Answer | None] = []

    async def note(answer: Answer | None, problem: object) -> None:
        ended.append(answer)

    request_id, running = begin(prepared, on_end=note)
    events = []
    async with asyncio.timeout(PATIENCE_S):
        async for event in relay.follow(request_id, ASKER):
            events.append(event)
            if len(events) == 4:
                await relay.stop(request_id, ASKER)
    assert running.task is not None
    await running.task
    assert events[-1][1] == "done"
    assert events[-1][2]["finish_reason"] == "stopped"
    (kept,) = ended
    assert kept is not None
    assert kept.text
    assert await asyncio.to_thread(server.was_left.wait, PATIENCE_S)


async def test_stopping_loses_no_word_that_the_answer_has(prepared: service.Prepared, settings: Any) -> None:
    """Whoever shows the words as they come has the same in the end as whoever reads the whole."""
    settings.REGISTRY_OLLAMA_URLS = ()
    ends = set()
    for after in range(1, 12):
        request_id = str(uuid.uuid4())
        relay.start(QUESTION, ASKER, request_id=request_id, prepared=prepared)
        events = []
        async with asyncio.timeout(PATIENCE_S):
            async for event in relay.follow(request_id, ASKER):
                events.append(event)
                if len(events) == after:
                    await relay.stop(request_id, ASKER)
        whole = events[-1][2]
        assert "".join(data["text"] for _, name, data in events if name == "token") == whole["text"]
        assert [data["citation"] for _, name, data in events if name == "citation"] == [*whole["citations"]]
        ends.add(whole["finish_reason"])
    assert "stopped" in ends


async def test_one_answer_too_many_is_refused_until_there_is_room(
    prepared: service.Prepared, settings: Any, server: ModelServer
) -> None:
    server.fault = "endless"
    settings.RAG_ANSWERS_AT_ONCE = 1
    relay.ensure_room()
    request_id, running = begin(prepared)
    assert await asyncio.to_thread(server.has_begun.wait, PATIENCE_S)
    with pytest.raises(Unavailable, match="Try again") as refused:
        relay.ensure_room()
    assert refused.value.retry_after_s
    await relay.stop(request_id, ASKER)
    assert running.task is not None
    await running.task
    relay.ensure_room()


async def test_what_nobody_waits_for_is_stopped(
    prepared: service.Prepared, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ORPHANED_AFTER_S", float("inf"))
    monkeypatch.setattr(relay, "WATCH_INTERVAL_S", 0.01)
    server.fault = "drip"
    _, running = begin(prepared)
    assert await asyncio.to_thread(server.has_begun.wait, PATIENCE_S)
    monkeypatch.setattr(relay, "ORPHANED_AFTER_S", 0.0)
    assert running.task is not None
    async with asyncio.timeout(PATIENCE_S):
        await running.task
    assert running.events[-1][2]["finish_reason"] == "stopped"
    assert await asyncio.to_thread(server.was_left.wait, PATIENCE_S)


async def test_what_somebody_waits_for_goes_on(
    prepared: service.Prepared, server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "ORPHANED_AFTER_S", 0.0)
    monkeypatch.setattr(relay, "WATCH_INTERVAL_S", 0.0)
    server.fault = "pause"
    request_id, _ = begin(prepared)
    reading = asyncio.create_task(read(request_id))
    assert await asyncio.to_thread(server.has_begun.wait, PATIENCE_S)
    async with asyncio.timeout(PATIENCE_S):
        # The watcher looks many times meanwhile.
        client = relay._client()
        for _ in range(50):
            await client.ping()
        await client.aclose()
    server.went_on.set()
    assert (await reading)[-1][2]["finish_reason"] == "stop"


async def test_it_ends_also_when_its_watcher_asks_redis_just_then(
    prepared: service.Prepared, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher that overhears its end would keep the answer from ending for ever."""
    settings.REGISTRY_OLLAMA_URLS = ()
    monkeypatch.setattr(relay, "WATCH_INTERVAL_S", 0.0)
    for _ in range(30):
        running = relay.start(QUESTION, ASKER, request_id=str(uuid.uuid4()), prepared=prepared)
        assert running.task is not None
        async with asyncio.timeout(PATIENCE_S):
            await running.task


async def test_it_is_kept_for_a_minute(prepared: service.Prepared) -> None:
    request_id, running = begin(prepared)
    assert running.task is not None
    await running.task
    client = relay._client()
    for part in ("events", "owner"):
        assert 0 < await client.ttl(relay._key(request_id, part)) <= 60
    await client.aclose()


async def test_then_it_is_gone(prepared: service.Prepared, settings: Any) -> None:
    settings.RAG_ANSWER_RESUME_S = 1
    request_id, running = begin(prepared)
    assert running.task is not None
    await running.task
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await read(request_id)
            except NotFound:
                break
            await asyncio.sleep(0.2)
    assert request_id not in relay._running


async def test_without_redis_it_is_answered_all_the_same(
    prepared: service.Prepared, settings: Any, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    _, running = begin(prepared)
    assert running.task is not None
    await running.task
    monkeypatch.setitem(settings.CACHES["default"], "LOCATION", f"redis://127.0.0.1:{unused_tcp_port}/0")
    again = str(uuid.uuid4())
    relay.start(QUESTION, ASKER, request_id=again, prepared=prepared)
    assert (await read(again))[-1][1] == "done"


async def test_two_hundred_at_once_all_end_and_nothing_is_left(
    prepared: service.Prepared, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.REGISTRY_OLLAMA_URLS = ()  # the extractive answerer
    clients: list[object] = []
    connect = relay._client
    monkeypatch.setattr(relay, "_client", lambda: clients.append(connect()) or clients[-1])
    _, first = begin(prepared)
    running = [relay.start(QUESTION, ASKER, request_id=str(uuid.uuid4()), prepared=prepared) for _ in range(200)]
    async with asyncio.timeout(10 * PATIENCE_S):
        await asyncio.gather(*(one.task for one in (first, *running) if one.task is not None))
        assert all(one.events[-1][1] == "done" for one in running)
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(left)
    assert len(clients) == 1, "they share a connection to Redis"
