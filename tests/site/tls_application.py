"""An ASGI application that says how it was reached, for a server that is tried without all of ZenGlow behind it."""

from __future__ import annotations

import json
from typing import Any


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps({"scheme": scope["scheme"]}).encode()})
