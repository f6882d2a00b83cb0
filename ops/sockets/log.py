"""Websocket sessions in the logs: the same ids as an HTTP request has, and one line when the session ends."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import structlog

from ops.contracts.facts import collecting
from ops.identifiers import correlation_id, uuid7
from ops.sockets.refusal import Application, Receive, Scope, Send

log = structlog.get_logger("zenglow.websocket")

NORMAL_CLOSURE = 1000
"""RFC 6455, section 7.4.1."""


class SocketLog:
    """Sets ``request_id`` and ``correlation_id`` in the scope of a websocket.

    Both stand in the headers of the handshake's answer. What is noted with `ops.contracts.facts.note` during the
    session is on its line.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = str(uuid7())
        offered = dict(scope.get("headers", ())).get(b"x-correlation-id", b"").decode("latin-1")
        ids = {"request_id": request_id, "correlation_id": correlation_id(offered, request_id)}
        session = _Session(receive, send, ids)
        with structlog.contextvars.bound_contextvars(**ids), collecting() as facts:
            failed = True
            try:
                await self._application({**scope, **ids}, session.receive, session.send)
                failed = False
            finally:
                session.write_line(scope["path"], facts, failed=failed)


class _Session:
    """Counts what passes in both directions."""

    def __init__(self, receive: Receive, send: Send, ids: dict[str, str]) -> None:
        self._receive = receive
        self._send = send
        self._headers = [(f"x-{name.replace('_', '-')}".encode(), value.encode()) for name, value in ids.items()]
        self._started = time.perf_counter()
        self._messages: Counter[str] = Counter()
        self._code: int | None = None

    async def receive(self) -> Any:
        message = await self._receive()
        self._messages[message["type"]] += 1
        if message["type"] == "websocket.disconnect":
            self._code = message.get("code", NORMAL_CLOSURE)
        return message

    async def send(self, message: Any) -> None:
        self._messages[message["type"]] += 1
        if message["type"] == "websocket.accept":
            message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
        elif message["type"] == "websocket.close":
            self._code = message.get("code", NORMAL_CLOSURE)
        await self._send(message)

    def write_line(self, path: str, facts: dict[str, Any], *, failed: bool) -> None:
        write = log.error if failed else log.info
        line = {
            "path": path,
            "accepted": self._messages["websocket.accept"] > 0,
            "close_code": self._code,
            "received": self._messages["websocket.receive"],
            "sent": self._messages["websocket.send"],
            "duration_ms": round((time.perf_counter() - self._started) * 1000, 2),
        }
        write("websocket", **{**facts, **line})
