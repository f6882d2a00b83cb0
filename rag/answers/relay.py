"""Answers that outlive the connection they are sent over: resumable for a minute, from any process.

Each answer is written by a task of its own, and its events are numbered and kept: in this process's memory for those
who listen here, and in a Redis stream for whoever comes back through another process. When nobody has listened for
`ORPHANED_AFTER_S`, or its asker says stop, the writing is cancelled and what there was until then is the answer.
Without Redis an answer is sent all the same, and can be resumed in this process only.

An answer is bounded by its tokens, so that what is kept of one is some hundred kilobytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any, cast

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
from rag.answers.contracts import Answer, AnswerEvent, AnswerRequest, DoneEvent, ErrorEvent

logger = logging.getLogger(__name__)

ORPHANED_AFTER_S = 10.0
WATCH_INTERVAL_S = 0.5
PRESENCE_S = 3
MOST_RUNNING = 1_000
READ_BLOCK_MS = 1_000
FAULTS = (RedisError, OSError)

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


_running: dict[str, Running] = {}


def start(
    request: AnswerRequest,
    principal: Principal,
    *,
    request_id: str,
    prepared: service.Prepared | None = None,
    on_end: OnEnd | None = None,
) -> Running:
    """Begin to write an answer, on this event loop. ``on_end`` hears how it ended, whoever listens.

    Raises `Unavailable` while this process writes as many as it can.
    """
    if count_running() >= MOST_RUNNING:
        raise Unavailable("Too many answers are being written just now. Try again in a moment.", retry_after_s=5)
    running = Running(request_id, principal.log_name, left_at=time.monotonic())
    _running[request_id] = running
    running.task = asyncio.create_task(_run(running, request, principal, prepared, on_end))
    return running


async def follow(request_id: str, principal: Principal, after: int = 0) -> AsyncGenerator[Event, None]:
    """An answer's events from number ``after`` + 1 on, until its last. Raises `NotFound` for what is not kept, or was
    asked by somebody else.
    """
    running = _running.get(request_id)
    if running is not None:
        if running.owner != principal.log_name:
            raise _unknown(request_id)
        async with aclosing(_follow_here(running, after)) as events:
            async for event in events:
                yield event
        return
    async with aclosing(_follow_elsewhere(request_id, principal, after)) as events:
        async for event in events:
            yield event


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


def count_running() -> int:
    return sum(1 for running in _running.values() if not running.is_done)


# --- writing ----


async def _run(
    running: Running,
    request: AnswerRequest,
    principal: Principal,
    prepared: service.Prepared | None,
    on_end: OnEnd | None,
) -> None:
    keeper = _Keeper(running.request_id, running.owner)
    answer: Answer | None = None
    problem: Problem | None = None
    WRITING.inc()
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
        WRITING.dec()
        running.is_done = True
        async with running.grown:
            running.grown.notify_all()
        await keeper.close()
        asyncio.get_running_loop().call_later(_kept_s(), _forget, running)


async def _write(running: Running, keeper: _Keeper, prepared: service.Prepared) -> tuple[Answer | None, Problem | None]:
    draft = service.Draft()
    watch = asyncio.create_task(_watch(running, keeper))
    stopped = asyncio.create_task(running.stop.wait())
    try:
        async with aclosing(service.stream_prepared(prepared, draft)) as events:
            while True:
                following: asyncio.Future[AnswerEvent] = asyncio.ensure_future(anext(events))
                waiting: set[asyncio.Future[Any]] = {following, stopped}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                # A model that writes without a pause must not outrun its asker's stop.
                if running.stop.is_set():
                    following.cancel()
                    with suppress(asyncio.CancelledError, StopAsyncIteration):
                        await following
                    answer = await service.conclude_stopped(prepared, draft)
                    await _add(running, keeper, DoneEvent(answer))
                    return answer, None
                try:
                    event = following.result()
                except StopAsyncIteration:
                    return None, None
                await _add(running, keeper, event)
                if isinstance(event, DoneEvent):
                    return event.answer, None
                if isinstance(event, ErrorEvent):
                    return event.answer, Problem(str(event.problem.get("detail", "")))
    finally:
        for task in (watch, stopped):
            task.cancel()
        await asyncio.gather(watch, stopped, return_exceptions=True)


async def _watch(running: Running, keeper: _Keeper) -> None:
    """Stop what nobody waits for any more, and what was stopped through another process."""
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        heard, told_to_stop = await keeper.signs()
        _raise_if_cancelled()
        if heard:
            running.left_at = time.monotonic()
        is_orphan = not running.listeners and time.monotonic() - running.left_at > ORPHANED_AFTER_S
        if told_to_stop or is_orphan:
            running.stop.set()
            return


async def _add(running: Running, keeper: _Keeper, event: AnswerEvent) -> None:
    numbered = (len(running.events) + 1, *wire.event_json(event))
    await keeper.keep(numbered)
    async with running.grown:
        running.events.append(numbered)
        running.grown.notify_all()


def _forget(running: Running) -> None:
    if _running.get(running.request_id) is running:
        del _running[running.request_id]


def _kept_s() -> float:
    return float(settings.RAG_ANSWER_RESUME_S)


# --- listening ----


async def _follow_here(running: Running, after: int) -> AsyncGenerator[Event, None]:
    running.listeners += 1
    position = max(after, 0)
    try:
        while True:
            async with running.grown:
                while len(running.events) <= position and not running.is_done:
                    await running.grown.wait()
                fresh = running.events[position:]
                is_done = running.is_done
            for event in fresh:
                yield event
            position += len(fresh)
            if is_done and position >= len(running.events):
                return
    finally:
        running.listeners -= 1
        running.left_at = time.monotonic()


async def _follow_elsewhere(request_id: str, principal: Principal, after: int) -> AsyncGenerator[Event, None]:
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
                for identifier, fields in entries:
                    last = identifier.decode()
                    number = int(last.partition("-")[0])
                    name = fields[b"event"].decode()
                    yield number, name, json.loads(fields[b"data"])
                    if name in {"done", "error"}:
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
    """An answer's events in Redis. One that fails is left alone: the answer goes on without."""

    def __init__(self, request_id: str, owner: str) -> None:
        self._request_id = request_id
        self._owner = owner
        self._client: redis_asyncio.Redis | None = _client() if settings.RAG_ANSWER_RESUME_S else None

    async def keep(self, event: Event) -> None:
        number, name, data = event
        if self._client is None:
            return
        key = _key(self._request_id, "events")
        # Until it ends it may take as long as a model may take.
        kept_s = int(settings.RAG_ANSWER_RESUME_S + settings.RAG_MODEL_TOTAL_TIMEOUT_S)
        is_last = name in {"done", "error"}
        try:
            async with self._client.pipeline(transaction=False) as pipeline:
                if number == 1:
                    pipeline.set(_key(self._request_id, "owner"), self._owner, ex=kept_s)
                pipeline.xadd(key, {"event": name, "data": json.dumps(data, ensure_ascii=False)}, id=f"{number}-0")
                if number == 1 or is_last:
                    pipeline.expire(key, settings.RAG_ANSWER_RESUME_S if is_last else kept_s)
                if is_last:
                    pipeline.expire(_key(self._request_id, "owner"), settings.RAG_ANSWER_RESUME_S)
                await pipeline.execute()
        except FAULTS as error:
            logger.warning("An answer can't be resumed elsewhere: %s", type(error).__name__)
            await self.close()

    async def signs(self) -> tuple[bool, bool]:
        """Whether somebody listens through another process, and whether somebody there said stop."""
        if self._client is None:
            return False, False
        try:
            heard, told = await self._client.mget(_key(self._request_id, "heard"), _key(self._request_id, "stop"))
        except FAULTS:
            return False, False
        return heard is not None, told is not None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(*FAULTS):
                await client.aclose()


def _client() -> redis_asyncio.Redis:
    """A client of this event loop's own."""
    return redis_asyncio.Redis.from_url(
        str(settings.CACHES["default"]["LOCATION"]), socket_connect_timeout=0.5, socket_timeout=READ_BLOCK_MS / 1000 + 2
    )


def _key(request_id: str, part: str) -> str:
    return f"{settings.CACHES['default']['KEY_PREFIX']}:answers:{request_id}:{part}"
