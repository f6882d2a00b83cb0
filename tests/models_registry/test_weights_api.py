from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from models_registry import deployments, weights
from models_registry.models import Deployment, FusionWeights, Slot
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db

WEIGHTS = "/rag/fusion/weights"

ClientOf = Callable[..., Client]


@pytest.fixture
def client_of() -> ClientOf:
    """A client that carries a key with these scopes."""

    def make(*granted: Scope, collections: list[str] | None = None) -> Client:
        key = keys.create_key("test", granted, actor=SYSTEM, collections=collections)
        return Client(headers={"Authorization": f"Bearer {key.text}"})

    return make


@pytest.fixture
def api(client_of: ClientOf, collections: set[str]) -> Client:
    return client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE)


def set_weights(ltr: float, scope: str = "global") -> Deployment:
    return weights.change(weights.propose(ltr, 1 - ltr), scope, by=SYSTEM, reason=f"to {ltr}")


def send(client: Client, method: str, path: str, body: Any, **headers: str) -> Any:
    content = body if isinstance(body, str) else json.dumps(body)
    return client.generic(method, path, content, content_type="application/json", headers=headers)


def put(client: Client, body: Any, path: str = WEIGHTS, **headers: str) -> Any:
    return send(client, "PUT", path, body, **headers)


def etag(client: Client, path: str = WEIGHTS) -> dict[str, str]:
    return {"If-Match": client.get(path)["ETag"]}


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    assert (response.status_code, response["Content-Type"]) == (status, "application/problem+json"), response.content
    problem: dict[str, Any] = response.json()
    assert problem["type"] == f"urn:zenglow:problem:{code}"
    return problem


def test_it_shows_the_live_weights_with_their_history(api: Client) -> None:
    row = set_weights(0.75)
    response = api.get(WEIGHTS)
    assert response.json() == {
        "version": row.weights_id,
        "ltr": 0.75,
        "conceptual": 0.25,
        "normalized": {"ltr": 0.75, "conceptual": 0.25},
        "author": "system",
        "created_at": response.json()["created_at"],
        "scope": "global",
        "by": "system",
        "reason": "to 0.75",
        "started_at": row.started_at.isoformat().replace("+00:00", "Z"),
        "ended_at": None,
    }


def test_it_says_when_nothing_is_live(api: Client) -> None:
    assert_problem(api.get(WEIGHTS), 404, "not-found")


def test_putting_makes_a_new_version_live(api: Client) -> None:
    before = set_weights(0.6)
    response = put(api, {"ltr": 3, "conceptual": 1, "reason": "more learning"}, **etag(api))

    assert response.status_code == 200
    assert response.json()["normalized"] == {"ltr": 0.75, "conceptual": 0.25}
    assert response.json()["version"] > before.weights_id  # type: ignore[operator]
    assert response.json()["reason"] == "more learning"
    assert response["ETag"] == api.get(WEIGHTS)["ETag"]


def test_putting_without_if_match_is_refused(api: Client) -> None:
    set_weights(0.6)
    assert_problem(put(api, {"ltr": 1, "conceptual": 1}), 428, "precondition-required")
    assert FusionWeights.objects.count() == 1


@pytest.mark.parametrize("tag", ['"0"', "", "nonsense", 'W/"{live}"', '"a", "b"'])
def test_putting_with_another_tag_is_refused(api: Client, tag: str) -> None:
    live = set_weights(0.6)
    headers = {"If-Match": tag.format(live=live.pk)}
    problem = assert_problem(put(api, {"ltr": 1, "conceptual": 1}, **headers), 412, "precondition-failed")
    assert problem["current_etag"] == f'"{live.pk}"'
    assert FusionWeights.objects.count() == 1


def test_a_star_or_a_list_with_the_live_tag_is_enough(api: Client) -> None:
    live = set_weights(0.6)
    assert put(api, {"ltr": 1, "conceptual": 1}, **{"If-Match": f'"0", "{live.pk}"'}).status_code == 200
    assert put(api, {"ltr": 2, "conceptual": 1}, **{"If-Match": "*"}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_of_two_writers_who_saw_the_same_one_wins_and_one_hears_of_it(api: Client) -> None:
    set_weights(0.6)
    seen = etag(api)
    calls = [lambda ltr=ltr: put(api, {"ltr": ltr, "conceptual": 1}, **seen) for ltr in (1, 2, 3, 4)]
    statuses = sorted(response.status_code for response in at_once(*calls))
    assert statuses == [200, 412, 412, 412]
    assert Deployment.objects.filter(ended_at=None).count() == 1


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"ltr": -1, "conceptual": 1}, "ltr"),
        ({"ltr": 0, "conceptual": 0}, "ltr"),
        ({"ltr": 1, "conceptual": 2_000_000}, "conceptual"),
        ({"ltr": "0.5", "conceptual": 1}, "ltr"),
        ({"ltr": True, "conceptual": 1}, "ltr"),
        ({"ltr": None, "conceptual": 1}, "ltr"),
        ({"ltr": [1], "conceptual": 1}, "ltr"),
        ({"ltr": 10**400, "conceptual": 1}, "ltr"),
        ({"ltr": 1}, "conceptual"),
        ({"ltr": 1, "conceptual": 1, "reason": 5}, "reason"),
        ({"ltr": 1, "conceptual": 1, "reason": "x" * 2001}, "reason"),
        ({"ltr": 1, "conceptual": 1, "resaon": "typo"}, "resaon"),
    ],
)
def test_it_names_the_faulty_field(api: Client, body: dict[str, Any], field: str) -> None:
    set_weights(0.6)
    problem = assert_problem(put(api, body, **etag(api)), 400, "invalid-request")
    assert field in problem["errors"]
    assert FusionWeights.objects.count() == 1


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"ltr": NaN, "conceptual": 1}', '{"ltr": 1e999, "conceptual": 1}']
)
def test_it_refuses_a_body_that_is_no_object_of_weights(api: Client, body: str) -> None:
    set_weights(0.6)
    assert_problem(put(api, body, **etag(api)), 400, "invalid-request")


def test_a_collection_has_weights_of_its_own_until_they_are_removed(api: Client) -> None:
    set_weights(0.6)
    path = f"{WEIGHTS}?collection=papers"
    assert api.get(path).json()["scope"] == "global"

    response = put(api, {"ltr": 9, "conceptual": 1}, path, **etag(api, path))
    assert (response.json()["scope"], response.json()["ltr"]) == ("papers", 9)
    assert api.get(WEIGHTS).json()["ltr"] == 0.6

    assert_problem(send(api, "DELETE", path, ""), 428, "precondition-required")
    response = send(api, "DELETE", path, {"reason": "no better"}, **etag(api, path))
    assert (response.status_code, response.json()["scope"]) == (200, "global")
    assert Deployment.objects.get(scope="papers").ended_at is not None
    assert_problem(send(api, "DELETE", path, "", **etag(api, path)), 409, "conflict")
    assert_problem(send(api, "DELETE", WEIGHTS, "", **etag(api)), 422, "unprocessable")


@pytest.mark.parametrize("collection", ["nowhere", "global", "%F0%9F%98%80"])
def test_it_says_that_a_collection_does_not_exist(api: Client, collection: str) -> None:
    set_weights(0.6)
    for method in ("GET", "PUT", "DELETE"):
        response = send(api, method, f"{WEIGHTS}?collection={collection}", "{}", **{"If-Match": "*"})
        assert_problem(response, 404, "not-found")


def test_it_refuses_an_unknown_parameter(api: Client) -> None:
    set_weights(0.6)
    problem = assert_problem(api.get(f"{WEIGHTS}?colection=papers"), 400, "invalid-request")
    assert "colection" in problem["errors"]


def test_rolling_back_goes_one_step_and_back_again(api: Client) -> None:
    set_weights(0.6)
    set_weights(0.7)
    rollback = f"{WEIGHTS}/rollback"
    assert_problem(send(api, "POST", rollback, ""), 428, "precondition-required")

    first = send(api, "POST", rollback, {"reason": "worse"}, **etag(api))
    assert (first.json()["ltr"], first.json()["reason"]) == (0.6, "worse")
    assert send(api, "POST", rollback, "", **{"If-Match": first["ETag"]}).json()["ltr"] == 0.7
    assert_problem(send(api, "POST", rollback, "", **{"If-Match": first["ETag"]}), 412, "precondition-failed")


def test_rolling_back_to_a_named_version(api: Client) -> None:
    wanted = set_weights(0.5).weights_id
    set_weights(0.6)
    set_weights(0.7)
    response = send(api, "POST", f"{WEIGHTS}/rollback", {"version": wanted}, **etag(api))
    assert (response.json()["version"], response.json()["ltr"]) == (wanted, 0.5)
    problem = send(api, "POST", f"{WEIGHTS}/rollback", {"version": 10**12}, **etag(api))
    assert_problem(problem, 404, "not-found")


def test_rolling_back_without_a_past_is_refused(api: Client) -> None:
    set_weights(0.6)
    assert_problem(send(api, "POST", f"{WEIGHTS}/rollback", "", **etag(api)), 409, "conflict")


def test_the_history_comes_in_pages_newest_first(api: Client, collections: set[str]) -> None:
    rows = [set_weights(ltr / 10) for ltr in range(1, 6)]
    set_weights(0.9, "papers")
    seen: list[int] = []
    path = f"{WEIGHTS}/history?limit=2"
    while path:
        page = api.get(path).json()
        assert len(page["results"]) <= 2
        seen += [entry["version"] for entry in page["results"]]
        path = page["next"]
    assert seen == [row.weights_id for row in reversed(rows)]
    own = api.get(f"{WEIGHTS}/history?collection=papers").json()
    assert [entry["ltr"] for entry in own["results"]] == [0.9]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=x",
        "limit=" + "9" * 50,
        "limit=²",
        "cursor=x",
        "cursor=cD1hYmM=",
        "o=1",
    ],
)
def test_it_refuses_a_page_that_cannot_be(api: Client, query: str) -> None:
    set_weights(0.6)
    assert_problem(api.get(f"{WEIGHTS}/history?{query}"), 400, "invalid-request")


def test_it_asks_for_the_right_scope(client_of: ClientOf, collections: set[str]) -> None:
    set_weights(0.6)
    reader = client_of(Scope.REGISTRY_READ)
    assert reader.get(WEIGHTS).status_code == 200
    assert_problem(put(reader, {"ltr": 1, "conceptual": 1}, **etag(reader)), 403, "forbidden")
    assert_problem(client_of(Scope.QUERY).get(WEIGHTS), 403, "forbidden")
    assert_problem(Client().get(WEIGHTS), 401, "authentication-needed")


def test_a_key_for_one_collection_changes_only_that_one(client_of: ClientOf, collections: set[str]) -> None:
    set_weights(0.6)
    limited = client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE, collections=["manuals"])
    manuals, papers = f"{WEIGHTS}?collection=manuals", f"{WEIGHTS}?collection=papers"
    assert put(limited, {"ltr": 1, "conceptual": 1}, manuals, **etag(limited, manuals)).status_code == 200
    assert_problem(put(limited, {"ltr": 1, "conceptual": 1}, **etag(limited)), 403, "forbidden")
    assert_problem(limited.get(papers), 403, "forbidden")
    assert deployments.effective(Slot.WEIGHTS, "papers").weights.ltr == 0.6  # type: ignore[union-attr]


def test_other_methods_are_refused(api: Client) -> None:
    assert_problem(send(api, "POST", WEIGHTS, "{}"), 405, "method-not-allowed")


@pytest.mark.parametrize("body", [[], "", 0, False], ids=repr)
def test_a_body_that_is_empty_but_no_object_is_refused_too(api: Client, body: object) -> None:
    for method, path in (("POST", "/rag/fusion/weights/rollback"), ("DELETE", "/rag/fusion/weights")):
        response = api.generic(method, path, json.dumps(body), "application/json", headers={"if-match": "*"})
        assert response.status_code == 400, (method, response.content)
