"""An evaluation ranks as the server does, is stored with what it was made of, and says when it is in-sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from models_registry import artifacts, deployments, versions, weights
from models_registry.live import view
from models_registry.models import ModelKind, ModelVersion, Slot
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound, Unavailable
from rag import spaces
from rag.evaluation.measures import per_query
from rag.evaluation.rows import ROWS, documents_in_order, in_order, orders
from rag.evaluation.run import dataset_sha256, evaluate, judged_set
from rag.models import Collection, EvaluationRun, JudgedQuery, Judgement, QueryLog
from rag.pipeline import rankers
from rag.pipeline.features import FEATURES
from rag.pipeline.fusion import fuse
from rag.pipeline.search import SearchRequest, search
from rag.pipeline.types import FusionWeights
from rag.query_log import _writer
from rag.recipes.judged import read_collection
from tests.rag.evaluation.support import judge, judged_subject
from tests.rag.pipeline.candidates import candidates, query_terms
from tests.rag.pipeline.support import Text, fill

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def bees(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    return judged_subject("bees", "bees")


class TestRows:
    def test_each_row_orders_the_candidates_by_its_own_rule(self) -> None:
        found = candidates(
            [[1, 1], [1, 2, 3, 4], [5, 6], [7]],
            distances=[0.9, 0.2, 0.1, 0.3],
            dense_ranks=[0, 2, 1, 3],
            lexical_ranks=[1, 2, 0, 0],
            document_ids=[70, 71, 72, 71],
        )
        fused = fuse(found.chunk_ids, np.array([0.0, 1.0, 2.0, 3.0]), 1 - found.distances, FusionWeights(1, 0))
        by_row = orders(query_terms([1], {1: 2}), found, fused)
        assert list(by_row) == list(ROWS)
        assert by_row["bm25"].tolist() == [0, 1]
        assert by_row["dense"].tolist() == [2, 1, 3]
        # 1/62 + 1/62, 1/61, 1/61, 1/63
        assert by_row["rrf"].tolist() == [1, 0, 2, 3]
        # Half of min-max cosine (0, 0.875, 1, 0.75) and half of min-max BM25 (1, less, 0, 0).
        assert by_row["convex"].tolist()[-1] == 3
        assert by_row["pipeline"].tolist() == [3, 2, 1, 0]
        names = {70: "a", 71: "b", 72: "c"}
        assert documents_in_order(by_row["pipeline"], found, names) == ["b", "c", "a"]

    def test_what_the_database_returns_is_put_back_in_order(self) -> None:
        assert list(in_order(dict.fromkeys(["own", *reversed(ROWS)]))) == [*ROWS, "own"]


class TestJudgedSet:
    def test_it_holds_the_queries_that_are_judged(self, bees: Collection) -> None:
        JudgedQuery.objects.create(collection=bees, query_id="unjudged", text="never judged")
        judged = judged_set("bees")
        assert len(judged.queries) == 12
        assert judged.queries.keys() == judged.judgements.keys()
        assert all(judged.judgements.values())

    def test_its_hash_knows_every_text_and_grade_and_no_order(self, bees: Collection) -> None:
        judged = judged_set("bees")
        backwards = dict(reversed(judged.queries.items()))
        assert dataset_sha256(backwards, judged.judgements) == judged.sha256
        changes: list[Callable[[], object]] = [
            lambda: JudgedQuery.objects.filter(query_id="q-bees-01").update(text="other words"),
            lambda: Judgement.objects.filter(query__query_id="q-bees-02").update(grade=3),
            lambda: Judgement.objects.filter(query__query_id="q-bees-03").delete(),
        ]
        seen = {judged.sha256}
        for change in changes:
            change()
            seen.add(judged_set("bees").sha256)
        assert len(seen) == 4

    @pytest.mark.parametrize("slug", ["nowhere", "unjudged"])
    def test_without_judgements_there_is_nothing_to_measure(self, slug: str) -> None:
        Collection.objects.create(slug="unjudged")
        with pytest.raises(NotFound, match="no judged queries"):
            evaluate(slug)
        assert not EvaluationRun.objects.exists()


def best_first(results: list[dict[str, Any]], scores: list[float]) -> list[str]:
    """The documents of single chunks by falling score, ties by chunk."""
    ranked = sorted(zip(scores, results, strict=True), key=lambda pair: (-pair[0], pair[1]["chunk_id"]))
    return [result["document_id"] for _, result in ranked]


class TestEvaluate:
    def test_every_row_is_what_the_answers_of_the_server_give(self, bees: Collection) -> None:
        steps: list[tuple[int, int]] = []
        run = evaluate("bees", lambda done, total: steps.append((done, total)))
        assert steps == [(done, 12) for done in range(1, 13)]
        judged = judged_set("bees")
        rankings: dict[str, dict[str, list[str]]] = {row: {} for row in ROWS}
        for query_id, text in judged.queries.items():
            request = SearchRequest(query=text, collection="bees", top_k=100, group_by="document", explain=True)
            results = search(request, SYSTEM)["results"]
            assert len(results) == 15

            rankings["pipeline"][query_id] = [result["document_id"] for result in results]
            rankings["rrf"][query_id] = best_first(
                results, [sum(1 / (60 + rank) for rank in result["matched_by"].values() if rank) for result in results]
            )
            rankings["convex"][query_id] = best_first(
                results, [round(result["features"]["convex"], 6) for result in results]
            )
            for row, leg in (("dense", "dense"), ("bm25", "lexical")):
                found = [result for result in results if result["matched_by"][leg]]
                rankings[row][query_id] = best_first(found, [-result["matched_by"][leg] for result in found])
        for row in ROWS:
            assert run.per_query[row] == per_query(rankings[row], judged.judgements), row
            for name, mean in run.metrics[row].items():
                assert mean == pytest.approx(sum(values[name] for values in run.per_query[row].values()) / 12)

    def test_it_is_stored_with_everything_that_decided_it(self, bees: Collection) -> None:
        run = EvaluationRun.objects.get(id=evaluate("bees").id)
        assert (run.collection, run.dataset_sha256, run.in_sample) == ("bees", judged_set("bees").sha256, False)
        assert run.snapshot["ranker_label"] == view.model(Slot.LTR, "bees").label
        assert run.snapshot["collection_id"] == bees.id
        assert run.snapshot["groups"] is None
        assert run.metrics.keys() == run.per_query.keys() == set(ROWS)
        assert 0.5 < run.metrics["pipeline"]["ndcg@10"] <= 1

    def test_it_neither_reads_caches_nor_leaves_queries_in_the_log(self, bees: Collection) -> None:
        _writer.cache_clear()
        first = evaluate("bees")
        weights.change(weights.propose(0, 1), "bees", by=SYSTEM)
        view.expire()
        second = evaluate("bees")
        assert second.metrics["pipeline"] == second.metrics["dense"]
        assert second.metrics["dense"] == first.metrics["dense"]
        assert second.snapshot["weights_version"] > first.snapshot["weights_version"]
        _writer().flush()
        assert not QueryLog.objects.exists()

    def test_it_reads_documents_that_everybody_but_administrators_is_denied(self, bees: Collection) -> None:
        before = evaluate("bees").metrics
        Collection.objects.filter(id=bees.id).update(default_access_groups=["nobody"])
        assert evaluate("bees").metrics == before

    def test_a_query_of_which_nothing_relevant_is_indexed_counts_zero(self) -> None:
        collection = Collection.objects.create(slug="gaps")
        fill(collection, {"a": Text("Bees dance.")})
        judge(collection, {"q1": "bees", "q2": "dance"}, [("q1", "a", 1), ("q2", "gone", 1)])
        run = evaluate("gaps")
        assert run.per_query["pipeline"]["q1"]["ndcg@10"] == 1
        assert run.per_query["pipeline"]["q2"]["ndcg@10"] == 0
        assert run.metrics["pipeline"]["ndcg@10"] == 0.5


class TestInSample:
    def live_ranker(self, **dataset: str) -> None:
        """A linear ranker whose provenance names a dataset."""
        shipped = ModelVersion.objects.get(model__name="ltr-default-linear", number=1)
        model = versions.register_model("trained", ModelKind.LTR, "linear")
        provenance = {"datasets": [{"collection": "elsewhere", "sha256": "0" * 64} | dataset]}
        version = versions.register_version(model, shipped.artifacts, shipped.parameters, {}, provenance)
        deployments.activate(Slot.LTR, version, "bees", by=SYSTEM)
        view.expire()

    def test_judgements_that_the_ranker_was_trained_on_are_in_sample(self, bees: Collection) -> None:
        self.live_ranker(sha256=judged_set("bees").sha256)
        assert evaluate("bees").in_sample

    def test_more_judgements_of_the_same_collection_do_not_hide_it(self, bees: Collection) -> None:
        self.live_ranker(sha256=judged_set("bees").sha256, collection="bees")
        judge(bees, {"new": "honey"}, [("new", "bees-01", 1)])
        assert evaluate("bees").in_sample

    def test_other_judgements_are_not(self, bees: Collection) -> None:
        self.live_ranker()
        assert not evaluate("bees").in_sample


@pytest.mark.usefixtures("untried_models")
class TestBrokenModels:
    """Figures of what stood in must not be taken for those of the model."""

    @pytest.fixture(autouse=True)
    def _loaded_anew(self) -> Any:
        rankers.forget()
        spaces.forget()
        yield
        rankers.forget()
        spaces.forget()
        view.expire()

    def deploy(self, slot: Slot, kind: ModelKind, provider: str, roles: list[str], parameters: dict[str, Any]) -> None:
        stored = {role: artifacts.put(b"no model", role).sha256 for role in roles}
        version = versions.register_version(
            versions.register_model("broken", kind, provider), stored, parameters, {}, {}
        )
        deployments.activate(slot, version, "bees", by=SYSTEM, force=True)
        view.expire()

    def test_a_broken_ranker_is_not_measured_but_one_can_be_trained_in_its_place(self, bees: Collection) -> None:
        self.deploy(Slot.LTR, ModelKind.LTR, "linear", ["model"], {})
        with pytest.raises(Unavailable, match="broken@1 can't be used"):
            evaluate("bees")
        assert not EvaluationRun.objects.exists()
        assert len(read_collection("bees", lambda done, total: None).queries) == 12

    def test_without_the_embedder_nothing_is_measured_and_nothing_trained(self, bees: Collection) -> None:
        parameters = dict(view.model(Slot.EMBEDDER, "bees").parameters)
        self.deploy(Slot.EMBEDDER, ModelKind.EMBEDDER, "onnxruntime", ["model", "tokenizer"], parameters)
        for use in (evaluate, lambda slug: read_collection(slug, lambda done, total: None)):
            with pytest.raises(Unavailable, match="broken@1 can't be used"):
                use("bees")


def test_training_sees_what_serving_sees(bees: Collection) -> None:
    judged = read_collection("bees", lambda done, total: None)
    assert (judged.name, judged.sha256) == ("bees", judged_set("bees").sha256)
    documents = dict(bees.documents.values_list("id", "document_id"))
    for query in judged.queries:
        text = judged_set("bees").queries[query.query_id]
        request = SearchRequest(query=text, collection="bees", top_k=100, explain=True)
        results = {result["chunk_id"]: result for result in search(request, SYSTEM)["results"]}
        assert query.candidates.chunk_ids.tolist() == sorted(results)
        found = {documents[row_id]: grade for row_id, grade in query.grades.items() if row_id in documents}
        assert found == judged_set("bees").judgements[query.query_id]
        assert list(next(iter(results.values()))["features"]) == list(FEATURES)
