"""``POST /mcp``: the protocol's streamable HTTP transport, behind the same door as the REST API.

Each request is whole in itself: no session is kept between two, so that any process answers any of them, and a right
that is withdrawn ends with the next request. Answers are JSON. The middleware has resolved the caller and refused other
sites by then; the SDK sees only the exchange.

Requests are charged here: a model that calls tools too often reads in the tool's result when to come back, which it
can act on. Anything else beyond the limit is answered with status 429, as everywhere.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, MutableMapping
from typing import Any, cast

from asgiref.sync import async_to_sync
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from ops.access import Access
from ops.limits import policy
from ops.limits.policy import LimitReached
from ops.requests import ApiRequest
from rag.mcp.caller import Caller


class McpView(APIView):
    """Any key may speak the protocol; each tool asks for its own scope."""

    required_scopes = {"POST": Access.ANY_PRINCIPAL}
    rate_costs = {"POST": 0.0}

    @extend_schema(exclude=True)  # the protocol describes itself
    def post(self, request: Request) -> HttpResponse:
        """One exchange of the Model Context Protocol."""
        asked = cast(ApiRequest, request)
        django_request = request._request

        refusal: LimitReached | None = None
        try:
            policy.charge_request(django_request, asked.principal, self, policy.DEFAULT_COST)
        except LimitReached as found:
            if not _is_tool_call(django_request.body):
                raise
            refusal = found

        def charge(cost: float) -> None:
            if refusal is not None:
                raise refusal
            if cost and policy.is_limited(request.path):
                policy.charge(asked.principal, str(request.META.get("REMOTE_ADDR") or ""), cost, "http")

        caller = Caller(asked.principal, charge, asked.request_id)
        return async_to_sync(_exchange)(caller, django_request)


def _is_tool_call(body: bytes) -> bool:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("method") == "tools/call" and "id" in message


async def _exchange(caller: Caller, request: HttpRequest) -> HttpResponse:
    """What the SDK's ASGI application answers."""
    # 47 MB that processes are spared to which nobody speaks the protocol.
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

    from rag.mcp.server import server_for

    manager = StreamableHTTPSessionManager(
        server_for(caller),
        json_response=True,
        stateless=True,
        max_request_body_size=settings.RAG_REQUEST_MAX_BYTES,
    )
    unread = [request.body]
    response = HttpResponse()
    body: list[bytes] = []

    async def receive() -> MutableMapping[str, Any]:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        await asyncio.Event().wait()  # whoever asked stays until it is answered
        raise AssertionError("unreachable")

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            response.status_code = message["status"]
            for name, value in message.get("headers", ()):
                if name.decode("latin-1").lower() != "content-length":
                    response.headers[name.decode("latin-1")] = value.decode("latin-1")
        else:
            body.append(message.get("body", b""))

    async with manager.run():
        await manager.handle_request(_scope(request), receive, send)
    response.content = b"".join(body)
    response.headers["Cache-Control"] = "no-store"
    return response


def _scope(request: HttpRequest) -> dict[str, Any]:
    headers: Mapping[str, str] = request.headers
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": b"",
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": None,
        "server": None,
    }
