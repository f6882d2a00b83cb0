"""``/registry/evaluations`` over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from celery import current_app
from django.test import Client

from models_registry.live import view
from ops.contracts.principal import Scope
from rag.evaluation import background
from rag.models import Collection, EvaluationRun, EvaluationState
from tests.rag.api.conftest import ClientOf, assert_problem, post
from tests.rag.evaluation.support import judge
from tests.rag.pipeline.support import Text, fill

EVALUATIONS = "/registry/evaluations"

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture
def api(client_of: ClientOf) -> Any:
    yield client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE)
    current_app.control.purge()


@pytest.fixture
def judged(live_models: None) -> Collection:
    view.expire()
    collection = Collection.objects.create(slug="bees")
    fill(collection, {"dance": Text("Bees dance to show flowers."), "mites": Text("Varroa mites weaken a hive.")})
    judge(collection, {"q1": "why do bees dance", "q2": "mites"}, [("q1", "dance", 1), ("q2", "mites", 1)])
    return collection


def stored(number: int, **columns: Any) -> EvaluationRun:
    """A finished run whose pipeline is ``number`` tenths good on each of two queries."""
    values = {
        row: {query: {"ndcg@10": good, "recall@100": 1.0, "mrr@10": good} for query in ("q1", "q2")}
        for row, good in (("convex", 0.5), ("pipeline", number / 10))
    }
    return EvaluationRun.objects.create(
        **{
            "collection": "bees",
            "dataset_sha256": "a" * 64,
            "snapshot": {"ranker_label": f"ranker@{number}", "space": {"label": "embedder@1"}},
            "metrics": {row: of["q1"] for row, of in values.items()},
            "per_query": values,
            "total": 2,
            "done": 2,
            **columns,
        }
    )


def test_one_is_asked_for_followed_and_read(api: Client, judged: Collection) -> None:
    response = post(api, EVALUATIONS, {"collection": "bees", "label": "first"})
    body = response.json()
    assert (response.status_code, response["Location"]) == (202, f"{EVALUATIONS}/{body['id']}")
    assert (body["state"], body["progress"], body["metrics"]) == ("pending", {"done": 0, "total": 2}, {})
    assert_problem(api.get(f"{response['Location']}/queries"), 409, "conflict")
    background.perform(body["id"])
    done = api.get(response["Location"]).json()
    assert (done["state"], done["progress"], done["label"]) == ("finished", {"done": 2, "total": 2}, "first")
    assert done["metrics"]["pipeline"]["mrr@10"] == 1.0
    assert done["ranker"] == done["snapshot"]["ranker_label"]
    assert done["timings"]["total"]["p50_ms"] > 0
    queries = api.get(f"{response['Location']}/queries").json()["results"]
    assert [(query["query_id"], query["text"]) for query in queries] == [("q1", "why do bees dance"), ("q2", "mites")]
    assert queries[0]["values"]["pipeline"]["ndcg@10"] == 1.0


def test_what_cannot_be_measured_is_not_started(api: Client, client_of: ClientOf, judged: Collection) -> None:
    assert_problem(post(api, EVALUATIONS, {"collection": "nowhere"}), 404, "not-found")
    assert_problem(post(api, EVALUATIONS, {"collection": "bees", "lable": "x"}), 400, "invalid-request")
    assert_problem(post(api, EVALUATIONS, {"collection": "bees", "label": "x" * 201}), 400, "invalid-request")
    limited = client_of(Scope.REGISTRY_WRITE, collections=["papers"])
    assert_problem(post(limited, EVALUATIONS, {"collection": "bees"}), 403, "forbidden")
    assert not EvaluationRun.objects.exists()


def test_they_are_listed_newest_first_in_pages_and_filtered(api: Client) -> None:
    made = [stored(number, label=f"run {number}") for number in range(3)]
    other = stored(9, collection="papers", in_sample=True)
    waiting = EvaluationRun.objects.create(collection="bees", state=EvaluationState.PENDING, dataset_sha256="b" * 64)

    def ids(**query: Any) -> list[int]:
        return [row["id"] for row in api.get(EVALUATIONS, query).json()["results"]]

    assert ids() == [waiting.pk, other.pk, *(run.pk for run in reversed(made))]
    first = api.get(EVALUATIONS, {"limit": 2}).json()
    assert [row["id"] for row in first["results"]] == [waiting.pk, other.pk]
    assert [row["id"] for row in api.get(first["next"]).json()["results"]] == [made[2].pk, made[1].pk]
    assert ids(collection="papers") == ids(in_sample="true") == ids(ranker="ranker@9") == [other.pk]
    assert ids(state="pending") == ids(dataset_sha256="b" * 64) == [waiting.pk]
    assert ids(label="run 1", embedder="embedder@1", in_sample="false") == [made[1].pk]
    assert "per_query" not in first["results"][0]
    for query in ({"limit": "0"}, {"state": "lost"}, {"colection": "bees"}, {"cursor": "x"}):
        assert_problem(api.get(EVALUATIONS, query), 400, "invalid-request")


def test_two_are_compared(api: Client) -> None:
    a, b = stored(4), stored(6)
    found = api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": b.pk}).json()
    ndcg = next(one for one in found["measures"] if one["measure"] == "ndcg@10")
    assert ndcg["difference"] == pytest.approx(0.2)
    assert ndcg["relative"] == pytest.approx(0.5)
    assert (ndcg["wins"], ndcg["losses"], ndcg["ties"]) == (2, 0, 0)
    # Of the four assignments of signs two are as extreme.
    assert ndcg["p_value"] == pytest.approx(0.5, abs=0.03)
    assert [query["query_id"] for query in found["queries"]] == ["q1", "q2"]
    rows = api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": a.pk, "row_a": "convex", "measure": "mrr@10"}).json()
    assert (rows["measure"], rows["queries"][0]["delta"]) == ("mrr@10", pytest.approx(-0.1))


def test_what_says_nothing_about_each_other_is_not_compared(api: Client) -> None:
    a = stored(4)
    other = stored(5, dataset_sha256="b" * 64)
    waiting = EvaluationRun.objects.create(collection="bees", state=EvaluationState.PENDING, dataset_sha256="a" * 64)
    problem = assert_problem(api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": other.pk}), 422, "unprocessable")
    assert "measured on different judgements" in problem["detail"]
    assert_problem(api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": waiting.pk}), 409, "conflict")
    assert_problem(api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": 0}), 400, "invalid-request")
    assert_problem(api.get(f"{EVALUATIONS}/compare", {"a": a.pk, "b": a.pk + 999}), 404, "not-found")
    for query in ({"a": a.pk}, {"a": a.pk, "b": a.pk, "row_a": "best"}, {"a": a.pk, "b": a.pk, "measure": "map"}):
        assert_problem(api.get(f"{EVALUATIONS}/compare", query), 400, "invalid-request")


def test_a_key_for_one_collection_does_not_see_the_others(client_of: ClientOf) -> None:
    hidden, shown = stored(4), stored(5, collection="papers")
    limited = client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE, collections=["papers"])
    assert [row["id"] for row in limited.get(EVALUATIONS).json()["results"]] == [shown.pk]
    for path in (f"/{hidden.pk}", f"/{hidden.pk}/queries", f"/compare?a={hidden.pk}&b={shown.pk}"):
        assert_problem(limited.get(EVALUATIONS + path), 404, "not-found")
    assert_problem(limited.delete(f"{EVALUATIONS}/{hidden.pk}"), 404, "not-found")


def test_one_is_forgotten(api: Client) -> None:
    run = stored(4)
    assert api.delete(f"{EVALUATIONS}/{run.pk}").status_code == 204
    assert_problem(api.get(f"{EVALUATIONS}/{run.pk}"), 404, "not-found")


def test_reading_and_writing_are_rights_of_their_own(client_of: ClientOf) -> None:
    run = stored(4)
    reader, writer = client_of(Scope.REGISTRY_READ), client_of(Scope.REGISTRY_WRITE)
    assert_problem(post(reader, EVALUATIONS, {"collection": "bees"}), 403, "forbidden")
    assert_problem(reader.delete(f"{EVALUATIONS}/{run.pk}"), 403, "forbidden")
    for path in ("", f"/{run.pk}", f"/{run.pk}/queries", f"/compare?a={run.pk}&b={run.pk}"):
        assert_problem(writer.get(EVALUATIONS + path), 403, "forbidden")
