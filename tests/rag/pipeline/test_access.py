"""A principal without the group never learns that a document is there, whatever it asks and whoever asked before."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from django.test import Client

from models_registry.live import view
from ops import keys
from ops.contracts.principal import SYSTEM, Principal, Scope
from rag.collections import update_collection
from rag.models import Collection
from rag.pipeline.search import SearchRequest, search
from tests.rag.pipeline.support import Text, fill, person

SECRET = Text(
    "Project Quuxly will be sold to the bees in March.", "Quuxly", {"year": 2001}, access_groups=["board", "owners"]
)
OPEN = {
    "waggle": Text("Bees dance to show the way to flowers.", "Dance", {"year": 2001}),
    "sales": Text("Sales of honey rose in March.", "Sales", {"year": 2001}),
    "mites": Text("Mites weaken a hive.", "Mites", {"year": 1999}),
}
OUTSIDER = person("oscar", "staff")
INSIDER = person("ines", "board", "staff")
ADMIN = person("ada", scopes=[Scope.ADMIN])

SHAPES: list[dict[str, Any]] = [
    {"query": query, **options}
    for query, options in product(
        ["project quuxly sold to the bees in march", "bees", "Quuxly"],
        [
            {},
            {"explain": True},
            {"top_k": 1, "offset": 1},
            {"top_k": 100, "group_by": "document"},
            {"filters": {"year": 2001}, "explain": True},
        ],
    )
]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def guarded(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    collection = Collection.objects.create(slug="guarded")
    documents = dict(OPEN)
    fill(collection, {"waggle": documents.pop("waggle"), "secret": SECRET, **documents})
    return collection


@pytest.fixture(scope="module")
def innocent(module_transaction: None, guarded: Collection) -> Collection:
    """The same without the guarded document, but with one list, so that groups are looked at."""
    collection = Collection.objects.create(slug="innocent")
    fill(collection, OPEN)
    return collection


def ask(principal: Principal, collection: str = "guarded", **given: Any) -> dict[str, Any]:
    return search(SearchRequest(collection=collection, **given), principal)


def found(principal: Principal, collection: str = "guarded") -> set[str]:
    answer = ask(principal, collection, query="bees in march", top_k=100)
    return {result["document_id"] for result in answer["results"]}


def comparable(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: value for name, value in result.items() if name != "chunk_id"} for result in answer["results"]]


class TestHiding:
    def test_only_members_and_administrators_find_it(self, guarded: Collection) -> None:
        assert found(OUTSIDER) == found(person("nobody")) == set(OPEN)
        for principal in (INSIDER, person("otto", "owners"), ADMIN, SYSTEM):
            assert found(principal) == {*OPEN, "secret"}

    @pytest.mark.parametrize("first", [INSIDER, ADMIN, OUTSIDER], ids=lambda principal: principal.name)
    def test_no_shape_of_request_shows_it_through_any_cache(self, guarded: Collection, first: Principal) -> None:
        for shape in SHAPES:
            for principal in (first, OUTSIDER, INSIDER, OUTSIDER, person("nobody"), ADMIN, OUTSIDER):
                answer = ask(principal, **shape)
                for result in answer["results"] if principal.name in {"oscar", "nobody"} else ():
                    assert result["document_id"] in OPEN
                    assert "uuxly" not in repr(result)

    def test_every_figure_is_as_if_it_were_not_there(self, guarded: Collection, innocent: Collection) -> None:
        for shape in SHAPES:
            expected = comparable(ask(OUTSIDER, "innocent", **shape))
            for _ in range(2):  # computed and cached
                assert comparable(ask(OUTSIDER, **shape)) == expected
            assert comparable(ask(INSIDER, **shape)) != expected

    def test_it_takes_no_place_in_a_page(self, guarded: Collection) -> None:
        query = "project quuxly sold to the bees in march"
        places = [ask(OUTSIDER, query=query, top_k=1, offset=offset)["results"] for offset in range(5)]
        assert [result["document_id"] for page in places[:3] for result in page] == [
            result["document_id"] for result in ask(OUTSIDER, query=query)["results"]
        ]
        assert places[3:] == [[], []]

    def test_keys_see_what_their_groups_may(self, guarded: Collection, client: Client) -> None:
        def found_by(*scopes: Scope, **given: Any) -> Any:
            secret = keys.create_key("test", scopes, actor=SYSTEM, **given).text
            response = client.post(
                "/rag/query2",
                {"query": "bees in march", "collection": "guarded"},
                content_type="application/json",
                headers={"Authorization": f"Bearer {secret}"},
            )
            body = response.json()
            return {result["document_id"] for result in body["results"]} if "results" in body else body["status"]

        assert found_by(Scope.QUERY, groups=["board"]) == {*OPEN, "secret"}
        assert found_by(Scope.QUERY, groups=["staff"]) == set(OPEN)
        assert found_by(Scope.QUERY) == set(OPEN)
        assert found_by(Scope.ADMIN) == {*OPEN, "secret"}
        assert found_by(Scope.QUERY, collections=["other"]) == 404
        assert found_by(Scope.INGEST) == 403


class TestChange:
    """Each change counts for the very next question, although its answer was cached before."""

    def test_a_document_that_is_withdrawn_is_gone_at_once(self, guarded: Collection) -> None:
        assert "waggle" in found(OUTSIDER)
        fill(guarded, {"waggle": Text(OPEN["waggle"].text, "Dance", {"year": 2001}, access_groups=["board"])})
        assert "waggle" not in found(OUTSIDER)
        assert "waggle" in found(INSIDER)
        fill(guarded, {"waggle": OPEN["waggle"]})
        assert "waggle" in found(OUTSIDER)

    def test_a_list_that_changes_hands_does_so_at_once(self, guarded: Collection) -> None:
        assert ("secret" in found(OUTSIDER), "secret" in found(INSIDER)) == (False, True)
        fill(guarded, {"secret": Text(SECRET.text, SECRET.title, SECRET.metadata, access_groups=["staff"])})
        assert ("secret" in found(OUTSIDER), "secret" in found(INSIDER)) == (True, True)
        fill(guarded, {"secret": Text(SECRET.text, SECRET.title, SECRET.metadata, access_groups=["owners"])})
        assert ("secret" in found(OUTSIDER), "secret" in found(INSIDER)) == (False, False)

    def test_the_default_of_a_collection_counts_at_once(self, guarded: Collection) -> None:
        assert found(OUTSIDER) == set(OPEN)
        update_collection(guarded, SYSTEM, default_access_groups=["family"])
        assert found(OUTSIDER) == set()
        assert found(INSIDER) == {"secret"}
        assert found(person("fay", "family")) == set(OPEN)
        assert found(ADMIN) == {*OPEN, "secret"}
        update_collection(guarded, SYSTEM, default_access_groups=[])
        assert found(OUTSIDER) == set(OPEN)
