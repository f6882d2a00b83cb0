"""How a websocket is refused: with the same problem object as over HTTP, then a close code that names it.

A browser shows a page nothing of a refused handshake. So the socket is accepted, told why in one message, and closed
with `close_code`. Pages of other sites are not even told that: see `ops.sockets.handshake`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ops.contracts.metrics import declare_counter
from ops.contracts.problems import NotFound, Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

FAULT = 1011
"""The close code of a fault of ours, as RFC 6455 defines it."""

CONNECTIONS = declare_counter(
    "zenglow_websocket_connections",
    "Attempts to open a websocket, by the HTTP status that the answer would have had (101: opened).",
    ("socket", "status"),
)


def close_code(problem: Problem) -> int:
    """4000 and the HTTP status: 4401 sign in, 4403 not allowed, 4404 no such socket, 4429 too many, 4503 try later."""
    return 4000 + problem.status


def problem_message(problem: Problem, scope: Scope) -> str:
    """The text of the message ``{"type": "problem", "problem": {…}}``; a wait is told as ``retry_after_s``."""
    body = problem.as_dict(request_id=scope.get("request_id", ""), instance=scope["path"])
    if problem.retry_after_s is not None:
        body["retry_after_s"] = problem.retry_after_s
    return json.dumps({"type": "problem", "problem": body})


async def refuse(scope: Scope, receive: Receive, send: Send, problem: Problem, *, socket: str = "none") -> None:
    """Answer a handshake with a problem. ``socket`` is the consumer's name, for the counter."""
    CONNECTIONS.labels(socket, str(problem.status)).inc()
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": problem_message(problem, scope)})
    await send({"type": "websocket.close", "code": close_code(problem), "reason": problem.title})


async def deny(receive: Receive, send: Send) -> None:
    """Refuse the handshake itself, without a reason: HTTP status 403."""
    CONNECTIONS.labels("none", "403").inc()
    await receive()
    await send({"type": "websocket.close"})


async def no_such_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """The last route: whatever none before it answers."""
    await refuse(scope, receive, send, NotFound("There is no websocket at this address."))
