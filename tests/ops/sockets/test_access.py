"""Every websocket × everybody: the rows of the table of access that are websockets, each tried with each caller."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async

from ops.access_table import socket_rows
from ops.contracts.principal import Scope
from tests.ops.sockets.client import opened
from tests.ops.sockets.test_sockets import application
from zenglow_site.routing import websocket_urlpatterns

pytestmark = pytest.mark.django_db(transaction=True)

CALLERS: list[Scope | None] = [None, *Scope]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.value if caller else "anybody")
async def test_every_socket_opens_to_whom_the_table_says_and_to_nobody_else(
    keys_on: None, key_with: Callable[..., str], caller: Scope | None
) -> None:
    """One that is open answers a message that is no JSON; one that is refused says why and closes."""
    headers = {}
    if caller is not None:
        headers["authorization"] = f"Bearer {await sync_to_async(key_with)(caller)}"
    rows = {row.pattern: row for row in socket_rows(websocket_urlpatterns)}
    assert rows.keys() >= {"ws/chat", "ws/voice", "ws/metrics"}
    for row in rows.values():
        async with opened(application(), f"/{row.pattern}", headers=headers) as socket:
            assert socket is not None, row.pattern
            await socket.send("this is no JSON")
            problem = (await socket.next_of("problem"))["problem"]
            if row.opens_to(caller):
                assert problem["status"] == 400, (row.pattern, problem)
                assert "not JSON" in problem["detail"]
            else:
                status = 401 if caller is None else 403
                assert problem["status"] == status, (row.pattern, problem)
                assert problem.get("required_scope") == (None if caller is None else row.needs.value)
                assert await socket.next() == {"type": "closed", "code": 4000 + status}
