"""A process that begins a spoken conversation, or goes on with one: ``speaker.py PORT [TOKEN]``.

It prints what it is told of the session, and holds it until a line comes in, which ends it, or until it is killed. A
process of its own, as Autobahn is either asyncio's or Twisted's in one, and the server's is Twisted's.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol

from tests.patience import PATIENCE_S


class Speaker(WebSocketClientProtocol):
    resumed: str | None = None

    def __init__(self) -> None:
        super().__init__()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def onOpen(self) -> None:  # noqa: N802  (Autobahn's names)
        self.tell("session.start", versions=[1], **({"resume": self.resumed} if self.resumed else {}))

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N802, N803
        if not isBinary and json.loads(payload)["type"] in {"session.started", "problem", "error"}:
            sys.stdout.write(f"{payload.decode()}\n")
            sys.stdout.flush()

    def onClose(self, wasClean: bool, code: int, reason: str) -> None:  # noqa: N802, N803
        self.gone.set_result(None)

    def tell(self, name: str, **fields: Any) -> None:
        self.sendMessage(json.dumps({"type": name} | fields).encode())


async def main(port: int, token: str | None) -> None:
    Speaker.resumed = token
    factory = WebSocketClientFactory(f"ws://127.0.0.1:{port}/ws/voice")
    factory.protocol = Speaker
    factory.setProtocolOptions(openHandshakeTimeout=PATIENCE_S)
    loop = asyncio.get_running_loop()
    _, speaker = await loop.create_connection(factory, "127.0.0.1", port)
    told = loop.run_in_executor(None, sys.stdin.readline)
    await asyncio.wait([told, speaker.gone], return_when=asyncio.FIRST_COMPLETED)
    if not told.done():
        os._exit(1)  # the thread goes on waiting for a line
    speaker.tell("session.end")
    await speaker.gone


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *sys.argv[2:] or [None]))
