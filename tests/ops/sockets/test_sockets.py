"""Who may open a websocket, and what becomes of one that is open."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.db import OperationalError
from django.test import Client
from django.urls import path
from pytest_django.fixtures import Settings

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Conflict
from ops.sockets import metrics
from ops.sockets.consumer import SESSIONS, SocketConsumer
from ops.sockets.groups import tell
from ops.sockets.handshake import PrincipalOfSocket
from ops.sockets.metrics import PUSHES
from tests.ops.sockets.client import opened
from tests.patience import eventually
from tests.serving import free_port
from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.routing import websocket_urlpatterns

pytestmark = pytest.mark.django_db(transaction=True)

KeyWith = Callable[..., str]
OWN_ORIGIN = {"origin": "http://127.0.0.1:8000"}
FOREIGN_ORIGIN = {"origin": "https://evil.example"}


def application() -> Any:
    """What Daphne serves. Importing it begins to follow the database, which must be the tests' own by then."""
    from zenglow_site.asgi import application

    return application


async def outcome(headers: dict[str, str] | None = None, where: str = "/ws/metrics", client: str = "127.0.0.1") -> Any:
    """``open``, ``denied``, or the close code with which the socket was refused."""
    async with opened(application(), where, headers=headers, client=client) as socket:
        if socket is None:
            return "denied"
        first = await socket.next()
        if first["type"] != "problem":
            return "open"
        closed = await socket.next()
        assert closed["code"] == 4000 + first["problem"]["status"]
        return closed["code"]


def session_of(user: User) -> dict[str, str]:
    client = Client()
    client.force_login(user)
    return {"cookie": f"sessionid={client.cookies['sessionid'].value}"}


@pytest.fixture
def staff(db: None) -> User:
    return User.objects.create_user("grace", password="a long password for grace", is_staff=True)


class TestOpening:
    async def test_whoever_sits_at_this_machine_may_while_keys_are_off(self, keys_off: None) -> None:
        assert await outcome() == "open"
        assert await outcome(OWN_ORIGIN) == "open"
        assert await outcome(client="203.0.113.9") == 4401

    async def test_an_unknown_caller_is_told_to_bring_a_key(self, keys_on: None) -> None:
        async with opened(application(), "/ws/metrics") as socket:
            assert socket is not None
            problem = (await socket.next())["problem"]
            assert problem["type"] == "urn:zenglow:problem:authentication-needed"
            assert problem["instance"] == "/ws/metrics"
            assert problem["request_id"]
            assert await socket.next() == {"type": "closed", "code": 4401}

    async def test_a_key_decides_by_its_scope(self, keys_on: None, key_with: KeyWith) -> None:
        right, wrong = [await sync_to_async(key_with)(scope) for scope in (Scope.OPS_READ, Scope.QUERY)]
        assert await outcome({"authorization": f"Bearer {right}"}) == "open"
        assert await outcome({"x-api-key": right}) == "open"
        assert await outcome({"x-api-key": wrong}) == 4403
        assert await outcome({"x-api-key": right[:-1] + ("a" if right[-1] != "a" else "b")}) == 4401

    async def test_a_session_decides_by_its_user(self, keys_on: None, person: User, staff: User) -> None:
        assert await outcome(await sync_to_async(session_of)(staff)) == "open"
        assert await outcome(await sync_to_async(session_of)(person)) == 4403
        assert await outcome({"cookie": "sessionid=made-up"}) == 4401

    async def test_a_page_of_another_site_opens_nothing(
        self, keys_off: None, settings: Settings, key_with: KeyWith, staff: User
    ) -> None:
        session = await sync_to_async(session_of)(staff)
        assert await outcome(FOREIGN_ORIGIN) == "denied"
        assert await outcome({"origin": "null"}) == "denied"
        assert await outcome(session | FOREIGN_ORIGIN) == "denied"
        assert await outcome(session | OWN_ORIGIN) == "open"
        # Browsers don't send keys of themselves, so that a page with one has got it from somebody.
        key = await sync_to_async(key_with)(Scope.OPS_READ)
        assert await outcome(FOREIGN_ORIGIN | {"x-api-key": key}) == "open"
        settings.CSRF_TRUSTED_ORIGINS = ["https://*.example"]
        assert await outcome(session | FOREIGN_ORIGIN) == "open"

    async def test_a_plain_page_opens_nothing_where_cookies_are_for_https(
        self, keys_off: None, settings: Settings, staff: User
    ) -> None:
        settings.SESSION_COOKIE_SECURE = True
        session = await sync_to_async(session_of)(staff)
        assert await outcome(session | OWN_ORIGIN) == "denied"
        assert await outcome(session | {"origin": "https://127.0.0.1:8000"}) == "open"

    async def test_a_foreign_host_name_opens_nothing(self, keys_off: None) -> None:
        assert await outcome({"host": "evil.example", "origin": "http://evil.example"}) == "denied"
        assert await outcome({"host": "evil.example"}) == 4401

    async def test_an_address_that_is_none_is_told_so(self, keys_off: None) -> None:
        assert await outcome(where="/ws/nothing") == 4404

    def test_every_route_declares_its_scope(self) -> None:
        undeclared = [
            str(route.pattern) for route in websocket_urlpatterns if not route.callback.consumer_class.required_scope
        ]
        assert undeclared == []


class TestFigures:
    @pytest.mark.parametrize(
        ("query", "kinds"),
        [
            ("", ["metrics"]),
            ("?figures=full", ["metrics.full"]),
            ("?figures=basic,full", ["metrics", "metrics.full"]),
            ("?figures=full,full", ["metrics.full"]),
        ],
    )
    async def test_a_client_chooses_them(
        self, keys_off: None, live_models: None, monkeypatch: pytest.MonkeyPatch, query: str, kinds: list[str]
    ) -> None:
        monkeypatch.setattr(metrics, "PUSHES", {name: replace(one, interval_s=0) for name, one in PUSHES.items()})
        async with opened(application(), f"/ws/metrics{query}") as socket:
            assert socket is not None
            first = await socket.next()
            others = {(await socket.next())["type"] for _ in range(20)} if len(kinds) == 1 else set()
            assert {first["type"], *others} <= set(kinds)
            for kind in kinds:
                await socket.next_of(kind)

    async def test_they_are_those_of_the_routes_of_the_same_names(
        self, keys_off: None, live_models: None, local: Client
    ) -> None:
        async with opened(application(), "/ws/metrics?figures=full") as socket:
            assert socket is not None
            message = await socket.next()
        answer = await sync_to_async(local.get)("/metrics/json")
        assert message.pop("type") == "metrics.full"
        assert message.keys() == answer.json().keys() == {"system", "query_stats", "models"}
        assert message["models"] == answer.json()["models"]

    async def test_unknown_ones_are_refused_with_those_there_are(self, keys_off: None) -> None:
        async with opened(application(), "/ws/metrics?figures=basic,all") as socket:
            assert socket is not None
            problem = (await socket.next_of("problem"))["problem"]
            assert problem["detail"] == "There are no figures 'basic,all': write ?figures=basic or full or basic,full."
            assert (await socket.next_of("closed"))["code"] == 4400

    async def test_a_database_that_is_away_is_told_and_the_others_go_on(
        self, keys_off: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away() -> dict[str, Any]:
            raise OperationalError("connection failed: secret")

        pushes = PUSHES | {"full": replace(PUSHES["full"], figures=away, interval_s=0)}
        monkeypatch.setattr(metrics, "PUSHES", pushes)
        async with opened(application(), "/ws/metrics?figures=basic,full") as socket:
            assert socket is not None
            for _ in range(2):
                told = await socket.next_of("problem")
                assert (told["problem"]["status"], told["problem"]["detail"]) == (
                    503,
                    "The database can't be reached just now.",
                )
            await socket.next_of("metrics")


class TestWhileOpen:
    async def test_a_revoked_key_ends_its_socket(self, keys_on: None, key_with: KeyWith) -> None:
        key = await sync_to_async(key_with)(Scope.OPS_READ)
        async with opened(application(), "/ws/metrics", headers={"x-api-key": key}) as socket:
            assert socket is not None
            assert (await socket.next())["type"] == "metrics"
            await sync_to_async(keys.revoke_key)(key.split("_")[1], actor=SYSTEM)
            assert (await socket.next_of("problem"))["problem"]["status"] == 401
            assert (await socket.next_of("closed"))["code"] == 4401

    async def test_also_when_redis_can_not_tell_of_it(
        self, keys_on: None, key_with: KeyWith, settings: Settings
    ) -> None:
        settings.CHANNEL_LAYERS = {
            "default": {
                "BACKEND": "channels_redis.core.RedisChannelLayer",
                "CONFIG": {"hosts": [f"redis://127.0.0.1:{free_port()}/0"]},
            }
        }
        key = await sync_to_async(key_with)(Scope.OPS_READ)
        async with opened(application(), "/ws/metrics", headers={"x-api-key": key}) as socket:
            assert socket is not None
            assert [(await socket.next())["type"] for _ in range(2)] == ["metrics", "metrics"]
            await sync_to_async(keys.revoke_key)(key.split("_")[1], actor=SYSTEM)
            assert (await socket.next_of("closed"))["code"] == 4401

    async def test_signing_out_ends_it(self, keys_on: None, staff: User) -> None:
        session = await sync_to_async(session_of)(staff)
        async with opened(application(), "/ws/metrics", headers=session) as socket:
            assert socket is not None
            assert (await socket.next())["type"] == "metrics"
            await sync_to_async(Session.objects.all().delete)()
            assert (await socket.next_of("closed"))["code"] == 4401

    async def test_it_is_counted_while_it_is_open(self, keys_off: None) -> None:
        before = SESSIONS.labels("metrics")._value.get()
        async with opened(application(), "/ws/metrics") as socket:
            assert socket is not None
            await socket.next()
            assert SESSIONS.labels("metrics")._value.get() == before + 1
        assert SESSIONS.labels("metrics")._value.get() == before

    @pytest.mark.parametrize("message", ["{", "[]", "3", '{"type": "hello"}'])
    async def test_a_message_that_it_does_not_take_is_answered(self, keys_off: None, message: str) -> None:
        async with opened(application(), "/ws/metrics") as socket:
            assert socket is not None
            await socket.send(message)
            assert (await socket.next_of("problem"))["problem"]["status"] == 400
            assert (await socket.next_of("metrics"))["counters"]

    async def test_a_message_that_is_too_long_ends_it(self, keys_off: None) -> None:
        async with opened(application(), "/ws/metrics") as socket:
            assert socket is not None
            await socket.send_bytes(b" " * (SocketConsumer.longest_message + 1))
            assert (await socket.next_of("closed"))["code"] == 4413


class Probe(SocketConsumer):
    """Does on request what consumers do."""

    name = "probe"
    required_scope = Scope.QUERY
    listens_to = ("test-probes",)

    async def received_json(self, content: dict[str, Any]) -> None:
        match content:
            case {"do": "refuse"}:
                raise Conflict("Not now.")
            case {"do": "break"}:
                raise ZeroDivisionError
            case {"do": "break later"}:
                self.start(self._break())
            case _:
                await self.send_json({"type": "echo", "content": content})

    async def received_bytes(self, data: bytes) -> None:
        await self.send_json({"type": "echo", "bytes": list(data)})

    async def probe_message(self, message: dict[str, Any]) -> None:
        await self.send_json({"type": "heard", "text": message["text"]})

    async def _break(self) -> None:
        raise ZeroDivisionError


class Closed(SocketConsumer):
    name = "undeclared"


probes = PrincipalOfSocket(URLRouter([path("probe", Probe.as_asgi()), path("closed", Closed.as_asgi())]))


@pytest.mark.usefixtures("keys_off")
class TestConsumer:
    async def test_it_takes_objects_and_bytes(self) -> None:
        async with opened(probes, "/probe") as socket:
            assert socket is not None
            await socket.send('{"a": 1}')
            assert await socket.next() == {"type": "echo", "content": {"a": 1}}
            await socket.send_bytes(b"\x00\x01")
            assert await socket.next() == {"type": "echo", "bytes": [0, 1]}

    async def test_a_refusal_leaves_it_open(self) -> None:
        async with opened(probes, "/probe") as socket:
            assert socket is not None
            await socket.send('{"do": "refuse"}')
            assert (await socket.next())["problem"]["detail"] == "Not now."
            await socket.send("{}")
            assert (await socket.next())["type"] == "echo"

    @pytest.mark.parametrize("do", ["break", "break later"])
    async def test_a_fault_is_logged_and_ends_it(self, do: str, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.ERROR):
            async with opened(probes, "/probe") as socket:
                assert socket is not None
                await socket.send(f'{{"do": "{do}"}}')
                problem = (await socket.next())["problem"]
                assert (problem["status"], "ZeroDivision" in problem["detail"]) == (500, False)
                assert await socket.next() == {"type": "closed", "code": 1011}

    async def test_one_that_declares_no_scope_is_closed_to_everybody(self) -> None:
        async with opened(probes, "/closed") as socket:
            assert socket is not None
            assert (await socket.next())["problem"]["status"] == 403

    async def test_it_hears_what_other_processes_tell_its_group(self, embedded_stack: EmbeddedStack) -> None:
        async with opened(probes, "/probe") as socket:
            assert socket is not None
            layer: Any = get_channel_layer()
            async with layer.connection(0) as redis:  # wait until it has joined
                while not await redis.zcard(layer._group_key("test-probes")):
                    pass
            await sync_to_async(tell)("test-probes", {"type": "probe.message", "text": "hello"})
            assert await socket.next() == {"type": "heard", "text": "hello"}

    async def test_one_that_closed_leaves_no_queue_of_messages_behind(self, embedded_stack: EmbeddedStack) -> None:
        layer: Any = get_channel_layer()
        async with opened(probes, "/probe"):
            # It is the one that reads from Redis.
            await asyncio.to_thread(eventually, lambda: layer.receive_lock and layer.receive_lock.locked())
        assert not layer.receive_buffer
