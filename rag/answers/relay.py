"""Answers that outlive the connection they are sent over: resumable for a minute, from any process.

Each answer is written by a task of its own, and its events are numbered and kept: in this process's memory for those
who listen here, and in a Redis stream for whoever comes back through another process. When nobody has listened for
`ORPHANED_AFTER_S`, or its asker says stop, the writing is cancelled and what there was until then is the answer.
Without Redis an answer is sent all the same, and can be resumed in this process only.

An answer is bounded by its tokens, so that what is kept of one is some hundred kilobytes. All answers of an event loop
share one connection to Redis, one look there for who listens and who said stop, and each write takes what all of them
have ready: two hundred at once cost little more than one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import redis
import redis.asyncio as redis_asyncio
from django.conf import settings
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from ops.api.problems import as_problem
from ops.contracts.metrics import declare_gauge
from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound, Problem, Unavailable
from rag.answers import service, wire
from rag.answers.contracts import (
    Answer,
    AnswerEvent,
    AnswerRequest,
    CitationEvent,
    DoneEvent,
    ErrorEvent,
    TokenEvent,
)

logger = logging.getLogger(__name__)

ORPHANED_AFTER_S = 10.0
WATCH_INTERVAL_S = 0.5
PRESENCE_S = 3
READ_BLOCK_MS = 1_000
REDIS_PAUSE_S = 1.0
"""How long Redis is left alone after it failed."""
EVENTS_A_TURN = 8
"""After so many events an answer lets others have their turn, and whoever listens gets them together."""
FAULTS = (RedisError, OSError)
LAST = frozenset({"done", "error"})

WRITING = declare_gauge("zenglow_answers_writing", "Answers that are being written.")

Event = tuple[int, str, dict[str, Any]]
"""Number from 1 on, name, data: as it is sent."""

OnEnd = Callable[[Answer | None, Problem | None], Awaitable[None]]


@dataclass(slots=True)
class Running:
    """One answer that is being written, or was until lately."""

    request_id: str
    owner: str
    events: list[Event] = field(default_factory=list)
    is_done: bool = False
    listeners: int = 0
    left_at: float = 0.0
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    grown: asyncio.Condition = field(default_factory=asyncio.Condition)
    task: asyncio.Task[None] | None = None
    is_kept: bool = True
    """In Redis, too. An answer of which an event could not be kept there is kept no further."""
    told_characters: int = 0
    told_citations: int = 0


_running: dict[str, Running] = {}
_writing = 0
"""How many there are: kept apart, because requests look from other threads."""
_counting = threading.Lock()


def ensure_room() -> None:
    """Raise `Unavailable` while this process writes as many answers as it may (``RAG_ANSWERS_AT_ONCE``)."""
    if _writing >= settings.RAG_ANSWERS_AT_ONCE:
        raise Unavailable("Too many answers are being written just now. Try again in a moment.", retry_after_s=5)


def start(
    request: AnswerRequest,
    principal: Principal,
    *,
    request_id: str,
    prepared: service.Prepared | None = None,
    on_end: OnEnd | None = None,
) -> Running:
    """Begin to write an answer, on this event loop. ``on_end`` hears how it ended, whoever listens.

    Whoever can still refuse calls `ensure_room` before.
    """
    running = Running(
        request_id, principal.log_name, left_at=time.monotonic(), is_kept=bool(settings.RAG_ANSWER_RESUME_S)
    )
    _running[request_id] = running
    running.task = asyncio.create_task(_run(running, request, principal, prepared, on_end))
    return running


async def follow(request_id: str, principal: Principal, after: int = 0) -> AsyncGenerator[Event, None]:
    """An answer's events from number ``after`` + 1 on, until its last. Raises `NotFound` for what is not kept, or was
    asked by somebody else.
    """
    async with aclosing(follow_together(request_id, principal, after)) as found:
        async for events in found:
            for event in events:
                yield event


async def follow_together(
    request_id: str, principal: Principal, after: int = 0
) -> AsyncGenerator[Sequence[Event], None]:
    """As `follow`, with what is there at the same time together."""
    running = _running.get(request_id)
    if running is not None and running.owner != principal.log_name:
        raise _unknown(request_id)
    following = _follow_elsewhere(request_id, principal, after) if running is None else _follow_here(running, after)
    async with aclosing(following) as found:
        async for events in found:
            yield events


async def stop(request_id: str, principal: Principal) -> None:
    """End the writing; what there is becomes the answer. Raises `NotFound` as `follow` does."""
    running = _running.get(request_id)
    if running is not None and running.owner == principal.log_name:
        running.stop.set()
        return
    client = _client()
    try:
        if await _owner(client, request_id) != principal.log_name:
            raise _unknown(request_id)
        await client.set(_key(request_id, "stop"), b"1", ex=max(int(settings.RAG_MODEL_TOTAL_TIMEOUT_S), 1))
    except FAULTS as error:
        raise _unknown(request_id) from error
    finally:
        await client.aclose()


def stop_from_thread(request_id: str, principal: Principal) -> None:
    """As `stop`, for code that runs on no event loop. Blocks. Raises `NotFound`."""
    running = _running.get(request_id)
    if running is not None and running.owner == principal.log_name and running.task is not None:
        running.task.get_loop().call_soon_threadsafe(running.stop.set)
        return
    ensure_kept(request_id, principal)
    try:
        _blocking_client().set(_key(request_id, "stop"), b"1", ex=max(int(settings.RAG_MODEL_TOTAL_TIMEOUT_S), 1))
    except FAULTS as error:
        raise _unknown(request_id) from error


def ensure_kept(request_id: str, principal: Principal) -> None:
    """Raise `NotFound` unless ``principal`` asked for an answer whose events are kept. Blocks."""
    running = _running.get(request_id)
    if running is None:
        try:
            owner = _blocking_client().get(_key(request_id, "owner"))
        except FAULTS as error:
            raise _unknown(request_id) from error
        is_own = owner is not None and cast(bytes, owner).decode() == principal.log_name
    else:
        is_own = running.owner == principal.log_name
    if not is_own:
        raise _unknown(request_id)


def _blocking_client() -> redis.Redis:
    return cast(redis.Redis, get_redis_connection("default"))


# --- writing ----


async def _run(
    running: Running,
    request: AnswerRequest,
    principal: Principal,
    prepared: service.Prepared | None,
    on_end: OnEnd | None,
) -> None:
    keeper = _keeper()
    keeper.hold(running)
    _count(1)
    answer: Answer | None = None
    problem: Problem | None = None
    try:
        try:
            if prepared is None:
                prepared = await service.in_thread(
                    lambda: service.prepare(request, principal, request_id=running.request_id)
                )
            answer, problem = await _write(running, keeper, prepared)
        except Exception as error:
            problem = as_problem(error)
            said = problem.as_dict(request_id=running.request_id, instance="/rag/query")
            await _add(running, keeper, ErrorEvent(said))
        if on_end is not None:
            try:
                await on_end(answer, problem)
            except Exception:
                logger.exception("What follows an answer failed")
    finally:
        _count(-1)
        running.is_done = True
        async with running.grown:
            running.grown.notify_all()
        asyncio.get_running_loop().call_later(_kept_s(), _forget, running)
        await keeper.release(running)


Ended = tuple[Answer | None, Problem | None]


async def _write(running: Running, keeper: _Keeper, prepared: service.Prepared) -> Ended:
    draft = service.Draft()
    writing = asyncio.create_task(_write_to_the_end(running, keeper, prepared, draft))
    stopped = asyncio.create_task(running.stop.wait())
    try:
        await asyncio.wait({writing, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not writing.done():
            writing.cancel()
            await asyncio.wait({writing})
        ended = None if writing.cancelled() else writing.result()
        return ended or await _conclude_stopped(running, keeper, prepared, draft)
    finally:
        for task in (writing, stopped):
            task.cancel()
        await asyncio.gather(writing, stopped, return_exceptions=True)


async def _write_to_the_end(
    running: Running, keeper: _Keeper, prepared: service.Prepared, draft: service.Draft
) -> Ended | None:
    """How it ended; ``None`` if it was stopped before."""
    async with aclosing(service.stream_prepared(prepared, draft)) as events:
        async for event in events:
            await _add(running, keeper, event)
            if isinstance(event, DoneEvent):
                return event.answer, None
            if isinstance(event, ErrorEvent):
                return event.answer, Problem(str(event.problem.get("detail", "")))
            # A model that writes without a pause must not outrun its asker's stop.
            if running.stop.is_set():
                return None
            if len(running.events) % EVENTS_A_TURN == 0:
                await asyncio.sleep(0)
    return None, None


async def _conclude_stopped(
    running: Running, keeper: _Keeper, prepared: service.Prepared, draft: service.Draft
) -> Ended:
    answer = await service.conclude_stopped(prepared, draft)
    # The stop may have come between what was written and what was told of it.
    if untold := answer.text[running.told_characters :]:
        await _add(running, keeper, TokenEvent(untold))
    for citation in answer.citations[running.told_citations :]:
        await _add(running, keeper, CitationEvent(citation))
    await _add(running, keeper, DoneEvent(answer))
    return answer, None


async def _add(running: Running, keeper: _Keeper, event: AnswerEvent) -> None:
    numbered = (len(running.events) + 1, *wire.event_json(event))
    running.events.append(numbered)
    if isinstance(event, TokenEvent):
        running.told_characters += len(event.text)
    elif isinstance(event, CitationEvent):
        running.told_citations += 1
    await keeper.keep(running, numbered)
    async with running.grown:
        running.grown.notify_all()


def _count(change: int) -> None:
    global _writing
    with _counting:
        _writing += change
        WRITING.set(_writing)


def _forget(running: Running) -> None:
    if _running.get(running.request_id) is running:
        del _running[running.request_id]


def _kept_s() -> float:
    return float(settings.RAG_ANSWER_RESUME_S)


# --- listening ----


async def _follow_here(running: Running, after: int) -> AsyncGenerator[Sequence[Event], None]:
    running.listeners += 1
    position = max(after, 0)
    try:
        while True:
            async with running.grown:
                while len(running.events) <= position and not running.is_done:
                    await running.grown.wait()
                fresh = running.events[position:]
                is_done = running.is_done
            if fresh:
                yield fresh
            position += len(fresh)
            if is_done and position >= len(running.events):
                return
    finally:
        running.listeners -= 1
        running.left_at = time.monotonic()


async def _follow_elsewhere(request_id: str, principal: Principal, after: int) -> AsyncGenerator[Sequence[Event], None]:
    client = _client()
    last = f"{max(after, 0)}-0"
    try:
        if await _owner(client, request_id) != principal.log_name:
            raise _unknown(request_id)
        while True:
            await client.set(_key(request_id, "heard"), b"1", ex=PRESENCE_S)
            found: Any = await client.xread({_key(request_id, "events"): last}, block=READ_BLOCK_MS)
            _raise_if_cancelled()
            if not found and not await client.exists(_key(request_id, "events")):
                return
            for _, entries in found:
                last = entries[-1][0].decode()
                events = [
                    (int(identifier.partition(b"-")[0]), fields[b"event"].decode(), json.loads(fields[b"data"]))
                    for identifier, fields in entries
                ]
                yield events
                if events[-1][1] in LAST:
                    return
    except FAULTS as error:
        raise _unknown(request_id) from error
    finally:
        await client.aclose()


def _raise_if_cancelled() -> None:
    """The client of Redis waits by `asyncio.wait_for`, which in Python 3.11 loses a cancellation that comes together
    with the result (https://github.com/python/cpython/issues/86296): a loop that asks Redis would never end.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _owner(client: redis_asyncio.Redis, request_id: str) -> str | None:
    owner = await client.get(_key(request_id, "owner"))
    return None if owner is None else cast(bytes, owner).decode()


def _unknown(request_id: str) -> NotFound:
    return NotFound(
        f"There is no answer {request_id} that you asked for, or it is no longer kept: "
        f"events are kept for {settings.RAG_ANSWER_RESUME_S} seconds."
    )


class _Keeper:
    """What the answers of one event loop have in Redis. Works while there are any, with one connection.

    Without Redis the answers go on, and are not kept there.
    """

    def __init__(self) -> None:
        self._answers: dict[str, Running] = {}
        self._pending: list[tuple[Running, Event, bytes]] = []
        self._has_pending = asyncio.Event()
        self._written = asyncio.Event()
        """Of what is pending."""
        self._away_until = 0.0
        self._task: asyncio.Task[None] | None = None

    def hold(self, running: Running) -> None:
        self._answers[running.request_id] = running
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    async def release(self, running: Running) -> None:
        """The last one waits until the connection is closed, unless another answer begins."""
        self._answers.pop(running.request_id, None)
        self._has_pending.set()
        if not self._answers and self._task is not None:
            await asyncio.wait({self._task}, timeout=WATCH_INTERVAL_S + 1)

    async def keep(self, running: Running, event: Event) -> None:
        """Have it written. Of an answer's first event and its last the end is awaited: from then on others know it."""
        if not running.is_kept:
            return
        number, name, data = event
        self._pending.append((running, event, json.dumps(data, ensure_ascii=False).encode()))
        self._has_pending.set()
        if number == 1 or name in LAST:
            await self._written.wait()

    async def _work(self) -> None:
        client = _client()
        looked_at = time.monotonic()
        try:
            while self._answers or self._pending:
                with suppress(TimeoutError):
                    async with asyncio.timeout(max(looked_at + WATCH_INTERVAL_S - time.monotonic(), 0)):
                        await self._has_pending.wait()
                self._has_pending.clear()
                if self._pending:
                    await self._write(client)
                    _raise_if_cancelled()
                if time.monotonic() - looked_at >= WATCH_INTERVAL_S:
                    await self._look(client)
                    _raise_if_cancelled()
                    looked_at = time.monotonic()
        finally:
            self._written.set()
            self._task = None
            with suppress(*FAULTS):
                await client.aclose()

    async def _write(self, client: redis_asyncio.Redis) -> None:
        pending, self._pending = self._pending, []
        written, self._written = self._written, asyncio.Event()
        commands: list[Running] = []
        try:
            if time.monotonic() < self._away_until:
                raise RedisError("It failed a moment ago.")
            async with client.pipeline(transaction=False) as pipeline:
                for running, event, data in pending:
                    before = len(pipeline)
                    _put(pipeline, running, event, data)
                    commands += [running] * (len(pipeline) - before)
                results = await pipeline.execute(raise_on_error=False)
            for running, result in zip(commands, results, strict=True):
                if isinstance(result, Exception):
                    self._give_up([running], result)
        except FAULTS as error:
            self._away_until = max(self._away_until, time.monotonic() + REDIS_PAUSE_S)
            self._give_up([running for running, _, _ in pending], error)
        finally:
            written.set()

    def _give_up(self, answers: Sequence[Running], error: Exception) -> None:
        lost = {running.request_id for running in answers if running.is_kept}
        for running in answers:
            running.is_kept = False
        if lost:
            logger.warning("%d answers can't be resumed elsewhere: %s", len(lost), type(error).__name__)

    async def _look(self, client: redis_asyncio.Redis) -> None:
        """Stop what nobody waits for any more, and what was stopped through another process."""
        answers = list(self._answers.values())
        kept = [running for running in answers if running.is_kept]
        heard: set[str] = set()
        told: set[str] = set()
        if kept and time.monotonic() >= self._away_until:
            try:
                keys = [_key(running.request_id, part) for part in ("heard", "stop") for running in kept]
                signs = await client.mget(keys)
            except FAULTS:
                self._away_until = time.monotonic() + REDIS_PAUSE_S
            else:
                heard = {one.request_id for one, sign in zip(kept, signs[: len(kept)], strict=True) if sign}
                told = {one.request_id for one, sign in zip(kept, signs[len(kept) :], strict=True) if sign}
        now = time.monotonic()
        for running in answers:
            if running.request_id in heard:
                running.left_at = now
            is_orphan = not running.listeners and now - running.left_at > ORPHANED_AFTER_S
            if is_orphan or running.request_id in told:
                running.stop.set()


_keepers: WeakKeyDictionary[asyncio.AbstractEventLoop, _Keeper] = WeakKeyDictionary()


def _keeper() -> _Keeper:
    return _keepers.setdefault(asyncio.get_running_loop(), _Keeper())


def _put(pipeline: Any, running: Running, event: Event, data: bytes) -> None:
    """The commands that keep an event."""
    number, name, _ = event
    key, owner = (_key(running.request_id, part) for part in ("events", "owner"))
    # Until it ends it may take as long as a model may take.
    kept_s = int(settings.RAG_ANSWER_RESUME_S + settings.RAG_MODEL_TOTAL_TIMEOUT_S)
    if number == 1:
        pipeline.set(owner, running.owner, ex=kept_s)
    pipeline.xadd(key, {"event": name, "data": data}, id=f"{number}-0")
    if name in LAST:
        for one in (key, owner):
            pipeline.expire(one, settings.RAG_ANSWER_RESUME_S)
    elif number == 1:
        pipeline.expire(key, kept_s)


def _client() -> redis_asyncio.Redis:
    """A client of this event loop's own."""
    return redis_asyncio.Redis.from_url(
        str(settings.CACHES["default"]["LOCATION"]), socket_connect_timeout=0.5, socket_timeout=READ_BLOCK_MS / 1000 + 2
    )


def _key(request_id: str, part: str) -> str:
    return f"{settings.CACHES['default']['KEY_PREFIX']}:answers:{request_id}:{part}"
