"""A client of our websockets, through the real application."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from channels.testing import WebsocketCommunicator

from tests.patience import PATIENCE_S


class Socket:
    """An opened socket. Frames that are not JSON fail the test that reads them."""

    def __init__(self, communicator: WebsocketCommunicator) -> None:
        self._communicator = communicator

    async def next(self) -> dict[str, Any]:
        """The next message that the server sends.

        A close reads ``{"type": "closed", "code": …}``, and sound ``{"type": "bytes"}``.
        """
        frame = await self._communicator.receive_output(PATIENCE_S)
        if frame["type"] == "websocket.close":
            return {"type": "closed", "code": frame.get("code")}
        assert frame["type"] == "websocket.send", frame
        if frame.get("bytes") is not None:
            return {"type": "bytes"}
        message: dict[str, Any] = json.loads(frame["text"])
        return message

    async def next_of(self, *kinds: str) -> dict[str, Any]:
        """The next message of one of these types; others before it are dropped."""
        while True:
            message = await self.next()
            if message["type"] in kinds:
                return message

    async def send(self, text: str) -> None:
        await self._communicator.send_input({"type": "websocket.receive", "text": text})

    async def send_bytes(self, data: bytes) -> None:
        await self._communicator.send_input({"type": "websocket.receive", "bytes": data})


@asynccontextmanager
async def opened(
    application: Any, path: str, *, headers: dict[str, str] | None = None, client: str = "127.0.0.1"
) -> AsyncIterator[Socket | None]:
    """A socket of a client at address ``client``; ``None`` when the handshake itself was refused."""
    fields = {"host": "127.0.0.1:8000"} | (headers or {})
    communicator = WebsocketCommunicator(application, path, [(k.encode(), v.encode()) for k, v in fields.items()])
    communicator.scope["client"] = [client, 40_000]
    accepted, _ = await communicator.connect(PATIENCE_S)
    try:
        yield Socket(communicator) if accepted else None
    finally:
        await communicator.disconnect(timeout=PATIENCE_S)
