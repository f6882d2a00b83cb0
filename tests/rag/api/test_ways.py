"""A plain request takes a short way through REST framework, any other the long one: both lead to the same answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client

from ops.api import quick
from ops.contracts.principal import Scope
from rag.models import Collection
from tests.rag.api.conftest import ClientOf
from tests.rag.pipeline.support import Text, fill

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

PLAIN = "application/json"
NOT_PLAIN = "application/json; charset=utf-8"

BODIES = [
    b'{"query": "bees", "collection": "ways"}',
    b'\xef\xbb\xbf{"query": "b\xc3\xa9es", "collection": "ways", "filters": {"year": [1, 2]}, "explain": true}',
    b'{"query": "bees", "collection": "nowhere"}',
    b'{"query": "", "collection": "ways"}',
    b'{"query": "bees", "top_k": 100000, "collection": "ways"}',
    b'{"query": "bees", "top_k": "ten"}',
    b'{"query": "bees", "colection": "ways"}',
    b'{"query": "bees\\u0000"}',
    b'{"query": NaN}',
    b'{"query": ',
    b"\xff",
    b"[]",
    b"null",
    b"{}",
    b"",
]


@pytest.fixture
def collection() -> Collection:
    collection = Collection.objects.create(slug="ways")
    fill(collection, {"bees": Text("Bees dance to show the way.", metadata={"year": 1})})
    return collection


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request so far, whether it was plain."""
    taken: list[bool] = []
    is_plain = quick.is_plain

    def noted(request: Any) -> bool:
        taken.append(is_plain(request))
        return taken[-1]

    monkeypatch.setattr(quick, "is_plain", noted)
    return taken


def post(client: Client, body: bytes, content_type: str = PLAIN, **headers: str) -> HttpResponse:
    return client.post("/rag/query2", body, content_type=content_type, headers=headers)  # type: ignore[return-value]


def without_circumstances(response: HttpResponse) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and body without what differs each time."""
    body = json.loads(response.content)
    headers = {name.lower(): value for name, value in response.headers.items()}
    for name in ("x-request-id", "x-correlation-id", "content-length"):
        headers.pop(name, None)
    return (
        response.status_code,
        headers,
        {name: value for name, value in body.items() if name not in {"request_id", "timings", "cache"}},
    )


@pytest.mark.parametrize("body", BODIES)
def test_both_ways_lead_to_the_same_answer(body: bytes, collection: Collection, ways: list[bool]) -> None:
    client = Client(SERVER_NAME="127.0.0.1", raise_request_exception=False)
    answers = [post(client, body, content_type) for content_type in (PLAIN, NOT_PLAIN, PLAIN)]
    assert ways == [bool(body), False, bool(body)]
    first, *others = map(without_circumstances, answers)
    assert others == [first, first]


def test_a_body_that_is_too_large_is_refused_on_both(collection: Collection, settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    client = Client(SERVER_NAME="127.0.0.1")
    body = json.dumps({"query": "bees " * 100}).encode()
    answers = [post(client, body, content_type) for content_type in (PLAIN, NOT_PLAIN)]
    assert [answer.status_code for answer in answers] == [413, 413]


def test_what_was_asked_before_is_still_checked_against_the_settings(collection: Collection, settings: Any) -> None:
    client = Client(SERVER_NAME="127.0.0.1")
    body = b'{"query": "bees", "collection": "ways", "top_k": 5}'
    assert post(client, body).status_code == 200
    settings.RAG_TOP_K_MAX = 4
    assert post(client, body).status_code == 400


def test_who_accepts_no_json_is_told_so(collection: Collection, ways: list[bool]) -> None:
    answer = post(Client(SERVER_NAME="127.0.0.1"), BODIES[0], accept="text/csv")
    assert (answer.status_code, ways) == (406, [False])


class TestRights:
    @pytest.mark.parametrize("content_type", [PLAIN, NOT_PLAIN])
    def test_each_way_asks_for_the_scope(self, content_type: str, collection: Collection, client_of: ClientOf) -> None:
        assert post(client_of(Scope.QUERY), BODIES[0], content_type).status_code == 200
        assert post(client_of(Scope.INGEST), BODIES[0], content_type).status_code == 403
        assert post(Client(), BODIES[0], content_type).status_code == 401

    def test_a_persons_session_needs_its_csrf_token(self, collection: Collection, ways: list[bool]) -> None:
        client = Client(enforce_csrf_checks=True, SERVER_NAME="127.0.0.1")
        client.force_login(User.objects.create_user("ada"))
        assert post(client, BODIES[0]).status_code == 403
        client.cookies["csrftoken"] = "t" * 32
        assert post(client, BODIES[0], **{"x-csrftoken": "t" * 32}).status_code == 200
        assert ways == [False, False]
