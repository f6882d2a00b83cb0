"""Collections over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from ops.contracts.principal import Scope
from rag.models import Collection, Document
from tests.rag.api.conftest import ClientOf, assert_problem, post, send, work_off

COLLECTIONS = "/rag/collections"

pytestmark = pytest.mark.usefixtures("live_models")


def test_it_makes_shows_and_lists_collections(api: Client) -> None:
    settings = {
        "slug": "code",
        "title": "Code",
        "description": "Our own.",
        "text_configuration": "simple",
        "split_identifiers": True,
        "chunk_tokens": 128,
        "chunk_overlap_tokens": 16,
        "default_access_groups": ["staff"],
    }
    response = post(api, COLLECTIONS, settings)
    assert (response.status_code, response["Location"]) == (201, "/rag/collections/code")
    body = response.json()
    assert body == settings | {
        "documents": {"indexed": 0, "failed": 0, "deleted": 0},
        "created_at": body["created_at"],
    }
    assert api.get(response["Location"]).json() == body
    post(api, COLLECTIONS, {"slug": "another"})
    assert [row["slug"] for row in api.get(COLLECTIONS).json()["results"]] == ["another", "code"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "slug"),
        ({"slug": 7}, "slug"),
        ({"slug": "Not A Slug"}, "slug"),
        ({"slug": "x" * 65}, "slug"),
        ({"slug": "ok", "text_configuration": "klingon"}, "text_configuration"),
        ({"slug": "ok", "chunk_tokens": "many"}, "chunk_tokens"),
        ({"slug": "ok", "chunk_tokens": 31}, "chunk_tokens"),
        ({"slug": "ok", "chunk_overlap_tokens": 219}, "chunk_overlap_tokens"),
        ({"slug": "ok", "split_identifiers": 1}, "split_identifiers"),
        ({"slug": "ok", "default_access_groups": "staff"}, "default_access_groups"),
        ({"slug": "ok", "generation": 7}, "generation"),
    ],
)
def test_it_names_what_is_wrong(api: Client, body: dict[str, Any], field: str) -> None:
    assert field in assert_problem(post(api, COLLECTIONS, body), 400, "invalid-request")["errors"]
    assert not Collection.objects.exists()


def test_it_says_how_long_chunks_may_be(api: Client) -> None:
    problem = assert_problem(post(api, COLLECTIONS, {"slug": "ok", "chunk_tokens": 1000}), 422, "unprocessable")
    assert "238 at most" in problem["detail"]


def test_it_refuses_a_slug_that_is_taken(api: Client) -> None:
    post(api, COLLECTIONS, {"slug": "c"})
    assert_problem(post(api, COLLECTIONS, {"slug": "c"}), 409, "conflict")


def test_it_renames(api: Client) -> None:
    post(api, COLLECTIONS, {"slug": "c", "title": "Old", "description": "Kept."})
    response = send(api, "PATCH", f"{COLLECTIONS}/c", {"title": "New"})
    assert response.status_code == 200
    body = response.json()
    assert (body["title"], body["description"], body["index_run"]) == ("New", "Kept.", None)
    assert_problem(send(api, "PATCH", f"{COLLECTIONS}/c", {"slug": "d"}), 400, "invalid-request")
    assert_problem(send(api, "PATCH", f"{COLLECTIONS}/d", {"title": "x"}), 404, "not-found")


def test_it_indexes_again_when_the_settings_ask_for_it(api: Client) -> None:
    post(api, COLLECTIONS, {"slug": "c"})
    work_off(post(api, "/rag/documents", {"collection": "c", "document_id": "a", "text": "Words."}))
    response = send(api, "PATCH", f"{COLLECTIONS}/c", {"text_configuration": "simple"})
    assert response.status_code == 202
    run = response.json()["index_run"]
    assert (response["Location"], run["total"]) == (f"/rag/index-runs/{run['id']}", 1)


def test_it_deletes_only_when_the_slug_is_repeated(api: Client, client_of: ClientOf) -> None:
    admin = client_of(Scope.ADMIN)
    post(api, COLLECTIONS, {"slug": "c"})
    work_off(post(api, "/rag/documents", {"collection": "c", "document_id": "a", "text": "Words."}))
    for query in ("", "?confirm=d", "?confirm="):
        assert_problem(send(admin, "DELETE", f"{COLLECTIONS}/c{query}"), 400, "invalid-request")
    assert send(admin, "DELETE", f"{COLLECTIONS}/c?confirm=c").status_code == 204
    assert not Document.objects.exists()
    assert_problem(send(admin, "DELETE", f"{COLLECTIONS}/c?confirm=c"), 404, "not-found")


def test_only_administrators_delete_one(api: Client) -> None:
    post(api, COLLECTIONS, {"slug": "c"})
    problem = assert_problem(send(api, "DELETE", f"{COLLECTIONS}/c?confirm=c"), 403, "forbidden")
    assert problem["required_scope"] == "admin"
    assert Collection.objects.filter(slug="c").exists()


def test_it_lets_a_limited_key_make_only_its_collections(client_of: ClientOf) -> None:
    limited = client_of(Scope.INGEST, Scope.QUERY, collections=["mine"])
    assert post(limited, COLLECTIONS, {"slug": "mine"}).status_code == 201
    assert_problem(post(limited, COLLECTIONS, {"slug": "theirs"}), 403, "forbidden")
