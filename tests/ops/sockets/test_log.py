"""A websocket session has ids of its own and one line in the log."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog
from channels.testing import WebsocketCommunicator

from ops.contracts.facts import note
from ops.sockets.log import SocketLog
from ops.sockets.refusal import Receive, Scope, Send


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers each message with the request id that the logs have."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message["text"] == "fail":
            raise RuntimeError("as asked")
        note(variant="canary")
        await send({"type": "websocket.send", "text": structlog.contextvars.get_contextvars()["request_id"]})


def connected(**headers: str) -> WebsocketCommunicator:
    encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return WebsocketCommunicator(SocketLog(echo), "/ws/echo?token=secret", headers=encoded)


def the_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (line,) = [record.msg for record in caplog.records if record.name == "zenglow.websocket"]
    assert isinstance(line, dict)
    return line


async def test_a_session_is_one_line_with_the_callers_correlation_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session = connected(x_correlation_id="order-7")
        assert (await session.connect(timeout=60))[0]
        await session.send_to(text_data="hello")
        request_id = await session.receive_from(timeout=60)
        await session.disconnect(code=1001, timeout=60)
    line = the_line(caplog)
    assert (line["request_id"], line["correlation_id"]) == (request_id, "order-7")
    assert (line["path"], line["accepted"], line["close_code"]) == ("/ws/echo", True, 1001)
    assert (line["received"], line["sent"], line["variant"]) == (1, 1, "canary")
    assert "secret" not in str(line)


async def test_a_correlation_id_that_is_somebodys_address_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session = connected(x_correlation_id="ada@example.org")
        await session.connect(timeout=60)
        await session.disconnect(timeout=60)
    line = the_line(caplog)
    assert line["correlation_id"] == line["request_id"]


async def test_a_session_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        session = connected()
        await session.connect(timeout=60)
        await session.send_to(text_data="fail")
        with pytest.raises(RuntimeError):
            await session.wait(timeout=60)
    assert the_line(caplog)["level"] == "error"
