"""Anything that a client may send over any websocket: no frame is a fault of the server."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ops.contracts.principal import Scope
from ops.sockets.refusal import FAULT
from rag.answers import relay
from rag.chat.consumer import INCOMING as CHAT_INCOMING
from tests.ops.sockets.client import opened
from tests.ops.sockets.test_sockets import application
from tests.patience import eventually
from voice import installed, protocol, sessions
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


DECLARED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    # Not `follow`: closing a socket while it connects to Redis may leave that connection to the garbage collector.
    "/ws/chat": {name: fields for name, fields in CHAT_INCOMING.items() if name != "follow"},
    "/ws/voice": {name: tuple(message.fields) for name, message in protocol.INCOMING.items()},
    "/ws/metrics": {},
}
"""Of each socket messages that it takes, with their fields, as the product declares them."""
TYPED_EXAMPLES = 20
MOST_AT_ONCE = 12
"""Messages over one socket; chat follows few answers at once, and a socket may be closed by any message."""

START = {"type": "session.start", "versions": [1], "acknowledges": True}
NEARLY_RIGHT: list[Any] = [
    *("default", "en", "pcm16", "x" * 65, "x" * 101, "y" * 9000, str(uuid.UUID(int=1)), " ", "ä\u2028\U0001f600"),
    *(0, 1, -1, 1.5, 16_000, 2**31, 2**53, 2**63, 2**70, 10**300, True, False, None),
    *({"left": ""}, {"left": "", "right": "x" * 65}, {"left": "y" * 9000}, {"middle": ""}, {"left": 1}, {}),
    *([1], [2], [[]], ["left"]),
]
"""Values that some field takes, or takes nearly."""
RIGHT: Mapping[str, Any] = {
    "panes": {"left": ""},
    "question": "Why are queries slow?",
    "answer": str(uuid.UUID(int=1)),
    "text": "Why are queries slow?",
    "versions": [1],
    "position": 0,
}
"""What lets a message through as far as the field beside it that is not right."""


def typed_messages(declared: Mapping[str, tuple[str, ...]]) -> st.SearchStrategy[dict[str, Any]]:
    """Messages of the declared types, with any of their fields and one that they don't have, of any value."""
    any_value = st.sampled_from(NEARLY_RIGHT) | values

    def of_type(name: str) -> st.SearchStrategy[dict[str, Any]]:
        fields = dict.fromkeys((*declared[name], "other"), any_value)
        return st.fixed_dictionaries({"type": st.just(name)}, optional=fields)

    return st.sampled_from(sorted(declared)).flatmap(of_type)


def nearly_right_messages(declared: Mapping[str, tuple[str, ...]]) -> list[list[dict[str, Any]]]:
    """Each declared message as it should be, with each field in turn of each value: one list for one socket."""
    return [
        [right | {field: value} for value in NEARLY_RIGHT[first : first + MOST_AT_ONCE]]
        for name, fields in declared.items()
        for right in [{"type": name} | {key: RIGHT[key] for key in fields if key in RIGHT}]
        for field in fields
        for first in range(0, len(NEARLY_RIGHT), MOST_AT_ONCE)
    ]


@pytest.fixture
async def _nothing_goes_on() -> AsyncIterator[None]:
    """Answers and voice sessions outlive their sockets; here they end with the test."""
    yield
    await sessions.end_all()
    for running in list(relay._running.values()):
        running.stop.set()
    await asyncio.to_thread(eventually, lambda: relay._writing == 0)
    keeper = relay._keepers.get(asyncio.get_running_loop())
    if keeper is not None and keeper._task is not None:
        await asyncio.wait({keeper._task})  # it closes its connection to Redis
    # What followed an answer that nobody listened to any more closes its connection to Redis in its own time.
    gc.collect()
    await asyncio.get_running_loop().shutdown_asyncgens()
    await sync_to_async(installed.close_engines)()
    await sync_to_async(connections.close_all)()


@pytest.mark.parametrize("path", SOCKETS)
@pytest.mark.usefixtures("_nothing_goes_on", "live_models")
async def test_no_message_of_a_known_type_is_a_fault(
    path: str, keys_on: None, key_with: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """Behind the dispatcher, too: any fields, in any order, in a voice session that runs and without one.

    A socket that takes no messages is sent those of all the others.
    """
    headers = {"x-api-key": await sync_to_async(key_with)(Scope.ADMIN)}
    assert DECLARED.keys() == set(SOCKETS)
    declared = DECLARED[path] or {name: fields for one in DECLARED.values() for name, fields in one.items()}

    async def converse(sent: list[dict[str, Any]]) -> None:
        async with opened(application(), path, headers=headers) as socket:
            assert socket is not None
            for message in sent:
                await socket.send(json.dumps(message))
            await socket.send("this is no JSON")  # the last to be answered
            while True:
                message = await socket.next()
                if message["type"] == "closed":
                    assert message["code"] == 1000 or 4400 <= message["code"] < 4600, (message, sent)
                    return
                if message["type"] == "problem":
                    assert message["problem"]["status"] != 500, (message, sent)
                    if "line 1, column 1" in message["problem"]["detail"]:
                        return

    asked: list[list[dict[str, Any]]] = []

    @settings(
        max_examples=TYPED_EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(sent=st.lists(typed_messages(declared), min_size=1, max_size=6))
    def collect(sent: list[dict[str, Any]]) -> None:
        asked.append(sent)

    collect()
    beginnings = [[START], []] if path == "/ws/voice" else [[]]
    with caplog.at_level(logging.ERROR):
        for beginning in beginnings:
            for sent in [*asked, *nearly_right_messages(declared)]:
                await converse([*beginning, *sent])
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
