"""Anything that a client may send over any websocket: no frame is a fault of the server."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ops.contracts.principal import Scope
from ops.sockets.refusal import FAULT
from tests.ops.sockets.client import opened
from tests.ops.sockets.test_sockets import application
from zenglow_site.routing import websocket_urlpatterns

pytestmark = pytest.mark.django_db(transaction=True)

EXAMPLES = 12
SOCKETS = [f"/{entry.pattern}" for entry in websocket_urlpatterns]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(["type", "id", "text", "query", "audio", "event", "\x00", ""]), values)
frames = st.one_of(
    objects.map(json.dumps),
    values.map(json.dumps),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.sampled_from(["", "{", "[" * 5000, '{"a":' * 3000, "1" * 9000, '"\\ud800"', '{"type": "\\u0000"}', "NaN"]),
    st.sampled_from(["x" * 70_000, '{"text": "' + "y" * 100_000 + '"}']),
    st.binary(max_size=400),
    st.just(bytes(70_000)),
)


@pytest.mark.parametrize("path", SOCKETS)
async def test_no_frame_is_a_fault(path: str, keys_on: None, key_with: Callable[..., str]) -> None:
    headers = {"x-api-key": await sync_to_async(key_with)(Scope.ADMIN)}

    async def converse(sent: list[str | bytes]) -> None:
        async with opened(application(), path, headers=headers) as socket:
            assert socket is not None
            for frame in sent:
                await (socket.send_bytes(frame) if isinstance(frame, bytes) else socket.send(frame))
            await socket.send("this is no JSON")  # whatever came before, it is answered: by a refusal or a close
            while True:
                message = await socket.next_of("problem", "closed")
                if message["type"] == "closed":
                    assert message["code"] != FAULT
                    return
                assert message["problem"]["status"] < 500
                if "not JSON" in message["problem"]["detail"] and "line 1, column 1" in message["problem"]["detail"]:
                    return

    asked: list[list[str | bytes]] = []

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=st.lists(frames, max_size=6))
    def collect(sent: list[str | bytes]) -> None:
        asked.append(sent)

    collect()
    assert len(asked) == EXAMPLES
    # The frames that are hard each alone, too: behind others a socket may be closed by then.
    singles: list[str | bytes] = ["[" * 5000, '{"a":' * 3000, "1" * 9000, '"\\ud800"', "NaN", bytes(70_000)]
    for sent in [*asked, *([single] for single in singles)]:
        await converse(sent)
