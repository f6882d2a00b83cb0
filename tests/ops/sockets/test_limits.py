"""Websockets draw on the same buckets as requests: to open one, and for each message."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from asgiref.sync import sync_to_async
from pytest_django.fixtures import Settings

from ops.contracts.principal import Scope
from ops.limits.policy import REFUSALS
from tests.ops.sockets.client import opened
from tests.ops.sockets.test_sockets import application, outcome

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def limited(settings: Settings, keys_on: None, empty_cache: None) -> Settings:
    settings.RATE_LIMITS = True
    for holder in ("KEY", "USER", "IP"):
        setattr(settings, f"OPS_RATE_LIMIT_{holder}_BURST", 1000)
        setattr(settings, f"OPS_RATE_LIMIT_{holder}_PER_S", 1e-6)
    return settings


async def test_a_key_opens_as_many_as_it_may_and_is_told_when_to_come_back(
    limited: Settings, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_KEY_BURST = 2
    headers = {"x-api-key": await sync_to_async(key_with)(Scope.OPS_READ)}
    counted = REFUSALS.labels("key", "websocket")._value.get()
    assert [await outcome(headers) for _ in range(3)] == ["open", "open", 4429]
    assert REFUSALS.labels("key", "websocket")._value.get() == counted + 1
    async with opened(application(), "/ws/metrics", headers=headers) as socket:
        assert socket is not None
        assert (await socket.next())["problem"]["retry_after_s"] > 0


async def test_guessing_keys_is_dear_here_too(limited: Settings) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 15
    assert [await outcome({"x-api-key": "zg_wrong"}) for _ in range(2)] == [4401, 4429]


async def test_a_message_too_many_is_refused_and_the_socket_stays_open(
    limited: Settings, key_with: Callable[..., str]
) -> None:
    limited.OPS_RATE_LIMIT_KEY_BURST = 3
    headers = {"x-api-key": await sync_to_async(key_with)(Scope.OPS_READ)}
    async with opened(application(), "/ws/metrics", headers=headers) as socket:
        assert socket is not None
        for status in (400, 400, 429):  # this socket takes no messages; the third is not even read
            await socket.send("{}")
            assert (await socket.next_of("problem"))["problem"]["status"] == status
        assert (await socket.next_of("metrics"))["type"] == "metrics"


async def test_a_proxy_is_believed_as_over_http(limited: Settings) -> None:
    limited.OPS_RATE_LIMIT_IP_BURST = 1
    limited.OPS_TRUSTED_PROXIES = ("203.0.113.9",)
    for caller in ("198.51.100.1", "198.51.100.2"):
        headers = {"x-forwarded-for": caller}
        assert [await outcome(headers, client="203.0.113.9") for _ in range(2)] == [4401, 4429]


async def test_a_client_certificate_is_asked_for_as_over_http(limited: Settings, key_with: Callable[..., str]) -> None:
    limited.OPS_REQUIRE_CLIENT_CERTIFICATE = True
    limited.OPS_TRUSTED_PROXIES = ("203.0.113.9",)
    headers = {"x-api-key": await sync_to_async(key_with)(Scope.OPS_READ), "x-client-verify": "SUCCESS"}
    assert await outcome(headers, client="203.0.113.9") == "open"
    assert await outcome(headers, client="203.0.113.10") == 4403
