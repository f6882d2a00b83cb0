"""A caller of tools beyond its limit: told in the result, where whoever called reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.test import Client
from pytest_django.fixtures import Settings

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from rag.mcp import server

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_cache")]


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Client:
    # The test's transaction is this thread's, and must stay open.
    monkeypatch.setattr(server, "database_sync_to_async", sync_to_async)
    settings.ENABLE_API_KEYS = settings.RATE_LIMITS = True
    settings.OPS_RATE_LIMIT_KEY_BURST, settings.OPS_RATE_LIMIT_KEY_PER_S = 2, 0.01
    settings.OPS_RATE_LIMIT_IP_BURST = 1000
    key = keys.create_key("editor", [Scope.QUERY], actor=SYSTEM).text
    return Client(headers={"Authorization": f"Bearer {key}"})


def send(client: Client, method: str, **parameters: Any) -> Any:
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    accept = "application/json, text/event-stream"
    return client.post("/mcp", json.dumps(message), content_type="application/json", headers={"Accept": accept})


def test_a_tool_beyond_the_limit_says_when_to_come_back(client: Client) -> None:
    listed = [send(client, "tools/call", name="list_collections", arguments={}) for _ in range(3)]
    assert [answer.status_code for answer in listed] == [200, 200, 200]
    assert [answer.json()["result"].get("isError", False) for answer in listed] == [False, False, True]
    (told,) = listed[-1].json()["result"]["content"]
    assert told["text"].startswith("Too many requests of this API key. Come back in ")
    assert listed[-1].headers["RateLimit"].startswith('"key";r=0')


def test_a_dear_tool_is_refused_though_a_cheap_one_would_not_be(client: Client) -> None:
    refused = send(client, "tools/call", name="ask", arguments={"question": "tea?"})
    assert refused.json()["result"]["isError"]
    assert "Come back in" in refused.json()["result"]["content"][0]["text"]
    assert not send(client, "tools/call", name="list_collections", arguments={}).json()["result"].get("isError")


def test_anything_else_beyond_the_limit_is_refused_as_everywhere(client: Client) -> None:
    answers = [send(client, "tools/list") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[-1].headers["Retry-After"]) > 0
