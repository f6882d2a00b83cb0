"""What every websocket of ours shares: rights, lifetime, tasks, messages between processes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, ClassVar, cast

import structlog
from channels.exceptions import StopConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.conf import settings
from redis.exceptions import RedisError

from ops.access import Requirement, ensure_allowed
from ops.api.parsing import parse_json
from ops.contracts.metrics import declare_counter, declare_gauge
from ops.contracts.principal import Principal, PrincipalKind
from ops.contracts.problems import AuthenticationNeeded, Forbidden, InternalError, InvalidRequest, Problem, TooLarge
from ops.keys import forget_verifications
from ops.sockets.groups import PRINCIPALS_CHANGED
from ops.sockets.handshake import charge_socket
from ops.sockets.refusal import CONNECTIONS, FAULT, Scope, close_code, problem_message
from ops.sockets.threads import in_thread

SESSIONS = declare_gauge("zenglow_websocket_sessions", "Websockets that are open.", ("socket",))
MESSAGES = declare_counter("zenglow_websocket_messages", "Messages over websockets.", ("socket", "direction"))

KEY_CHECK_INTERVAL_S = 0.3
"""How often an open socket asks whether its API key still opens it. The answer is reused within a process (`ops.keys`),
so that the database is asked no more often than that allows, however many sockets are open."""
PERSON_CHECK_INTERVAL_S = 5.0
"""The same for a signed-in person, which takes three small queries."""

REDIS_PAUSE_S = 1.0
CANCEL_INTERVAL_S = 0.5
MEMBERSHIP_S = 3600.0
"""How often a membership of a group is renewed; channels_redis forgets it after a day."""

log = structlog.get_logger("zenglow.socket")


class SocketConsumer(AsyncWebsocketConsumer):
    """Base of the consumers. Subclasses say ``name`` and ``required_scope``, and override `opened`, `received_json`,
    `received_bytes` and `closed`.

    A handler that waits holds back every further message of its socket: long work belongs into `start`. A `Problem`
    that a handler raises is sent to the client, and the socket stays open; any other exception is logged and closes it
    with 1011. The principal is looked up again while the socket is open, and a lost right closes it with 4401 or 4403.
    """

    name: ClassVar[str]
    """Short and fixed: a label of the metrics."""
    required_scope: ClassVar[Requirement | None] = None
    """As ``required_scopes`` of a view; a socket that says nothing is closed to everybody."""
    listens_to: ClassVar[tuple[str, ...]] = ()
    """Groups of the channel layer whose messages come to the method named as their ``type``."""
    message_cost: ClassVar[float] = 1.0
    """Tokens that a text message costs (`ops.limits`)."""
    bytes_cost: ClassVar[float] = 0.0
    """The same of a binary message: sound comes in many small ones, whose number says nothing."""
    longest_message: ClassVar[int] = 64 * 1024
    """Bytes, or characters of text, that a client may send at once."""

    # We hear the layer in a task of our own, which outlives Redis; Channels' way ends the socket with it.
    channel_layer_alias = None  # type: ignore[assignment]

    principal: Principal

    # --- for subclasses ----

    async def opened(self) -> None:
        """The socket is open."""

    async def received_json(self, content: dict[str, Any]) -> None:
        """A text message, which was a JSON object."""
        raise InvalidRequest("This socket takes no messages.")

    async def received_bytes(self, data: bytes) -> None:
        """A binary message."""
        raise InvalidRequest("This socket takes no binary messages.")

    async def closed(self, code: int) -> None:
        """The socket is closed, and all of its tasks have ended."""

    async def send_json(self, content: object) -> None:
        MESSAGES.labels(self.name, "out").inc()
        await self.send(text_data=json.dumps(content, separators=(",", ":")))

    async def send_bytes(self, data: bytes) -> None:
        MESSAGES.labels(self.name, "out").inc()
        await self.send(bytes_data=data)

    async def send_problem(self, problem: Problem) -> None:
        await self.send(text_data=problem_message(problem, self._facts))

    async def end(self, problem: Problem) -> None:
        """Say why, and close."""
        await self.send_problem(problem)
        await self.close(FAULT if problem.status == 500 else close_code(problem))

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` beside the messages. It is cancelled when the socket closes; what it raises ends the socket."""
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def _facts(self) -> Scope:
        """The scope with what `ops.sockets.handshake` adds to it."""
        return cast(Scope, self.scope)

    # --- life ----

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_open = False
        self._opened_at = 0.0

    async def dispatch(self, message: Any) -> None:
        """Channels' own also looks for stale database connections, on the one thread that all sockets share."""
        handler = getattr(self, message["type"].replace(".", "_"))
        try:
            await handler(message)
        except StopConsumer:
            raise
        except Exception as error:
            await self._say_fault(error)

    async def connect(self) -> None:
        self.principal = self._facts["principal"]
        await self.accept()
        try:
            ensure_allowed(self.principal, _Requirement(self.required_scope), "CONNECT")
        except Problem as problem:
            CONNECTIONS.labels(self.name, str(problem.status)).inc()
            await self.end(problem)
            return
        CONNECTIONS.labels(self.name, "101").inc()
        SESSIONS.labels(self.name).inc()
        self._is_open, self._opened_at = True, time.monotonic()
        self.start(self._watch_principal())
        self.start(self._listen())
        await self.opened()

    async def websocket_receive(self, message: Any) -> None:
        if not self._is_open:
            return
        MESSAGES.labels(self.name, "in").inc()
        text, data = message.get("text"), message.get("bytes")
        if len(data if text is None else text) > self.longest_message:
            await self.end(TooLarge(f"A message may have {self.longest_message} bytes."))
            return
        cost = self.bytes_cost if text is None else self.message_cost
        if cost and settings.RATE_LIMITS:
            await in_thread(charge_socket)(self.principal, cast(Any, self.scope), cost)
        if text is None:
            await self.received_bytes(data or b"")
        else:
            await self.received_json(_object(text))

    async def websocket_disconnect(self, message: Any) -> None:
        code = message.get("code") or 1005
        if self._is_open:
            self._is_open = False
            SESSIONS.labels(self.name).dec()
            await self._end_tasks()
            try:
                await self.closed(code)
            finally:
                log.info(
                    "websocket",
                    path=self.scope["path"],
                    code=code,
                    duration_ms=round((time.monotonic() - self._opened_at) * 1000, 2),
                    principal=self.principal.name,
                )
        raise StopConsumer

    async def _end_tasks(self) -> None:
        """Cancel until all have ended: redis-py loses a cancellation that meets it while it connects."""
        pending = set(self._tasks)
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_INTERVAL_S)

    # --- rights that change ----

    async def principals_changed(self, message: dict[str, Any]) -> None:
        """Somebody's rights were changed in some process, so that what this one remembers of keys may be wrong."""
        forget_verifications()
        await self._check_principal()

    async def _watch_principal(self) -> None:
        is_key = self.principal.kind is PrincipalKind.API_KEY
        while True:
            await asyncio.sleep(KEY_CHECK_INTERVAL_S if is_key else PERSON_CHECK_INTERVAL_S)
            await self._check_principal()

    async def _check_principal(self) -> None:
        """Look the principal up again; while that is not possible the one from before stays."""
        try:
            principal = await in_thread(self._facts["resolve"])()
            ensure_allowed(principal, _Requirement(self.required_scope), "CONNECT")
        except (AuthenticationNeeded, Forbidden) as problem:
            await self.end(problem)
        except Problem:
            return
        else:
            self.principal = principal

    # --- messages of other processes ----

    async def _listen(self) -> None:
        """Hand on what the groups say. Without Redis there is silence, until it is back."""
        groups = (PRINCIPALS_CHANGED, *self.listens_to)
        while True:
            layer: Any = get_channel_layer()
            channel = ""
            try:
                channel = await layer.new_channel()
                for group in groups:
                    await layer.group_add(group, channel)
                with suppress(TimeoutError):
                    async with asyncio.timeout(MEMBERSHIP_S):
                        while True:
                            await self.dispatch(await layer.receive(channel))
            except (RedisError, OSError):
                await asyncio.sleep(REDIS_PAUSE_S)
            finally:
                # channels_redis keeps the queue of a channel whose wait was cancelled while it was the one that read.
                getattr(layer, "receive_buffer", {}).pop(channel, None)
                with suppress(RedisError, OSError):
                    for group in groups:
                        await layer.group_discard(group, channel)

    # --- faults ----

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            await self._say_fault(error)

    async def _say_fault(self, error: Exception) -> None:
        if isinstance(error, Problem):
            await self.send_problem(error)
            return
        log.error("websocket failed", path=self.scope["path"], exc_info=error)
        await self.end(InternalError("This is a fault of the server. Its log has the details."))


class _Requirement:
    """A requirement in the shape that `ops.access` asks views about."""

    def __init__(self, requirement: Requirement | None) -> None:
        self.required_scopes = {} if requirement is None else {"CONNECT": requirement}


def _object(text: str) -> dict[str, Any]:
    content = parse_json(text.encode(errors="surrogatepass"))
    if not isinstance(content, dict):
        raise InvalidRequest("The message must be a JSON object.")
    return content
