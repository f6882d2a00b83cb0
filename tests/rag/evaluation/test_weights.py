from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models_registry import weights as registry_weights
from models_registry.live import view
from models_registry.tuning import STEPS, Measurement, Shares
from ops.contracts.principal import SYSTEM, Principal, PrincipalKind
from ops.contracts.problems import NotFound
from rag.evaluation import weights
from rag.evaluation.measures import per_query
from rag.evaluation.run import measure as measure_pipeline
from rag.pipeline.search import SearchRequest, search
from rag.preview import PipelinePreview
from tests.rag.evaluation.support import judged_subject

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

NOW, THEN = Shares(0.8, 0.2), Shares(0.3, 0.7)
STRANGER = Principal(PrincipalKind.USER, "sam", frozenset(), collections=frozenset({"other"}))


@given(data=st.data())
@hypothesis_settings(max_examples=50)
def test_ndcg_is_that_of_the_evaluations(data: st.DataObject) -> None:
    documents = data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=40))
    grades = data.draw(st.dictionaries(st.integers(1, 20), st.integers(0, 3), max_size=15))
    order = np.array(data.draw(st.permutations(range(len(documents)))))
    ids = np.array(documents)
    ranking = list(dict.fromkeys(str(document) for document in ids[order].tolist()))
    judged = {"q": {str(document): grade for document, grade in grades.items()}}
    expected = per_query({"q": ranking}, judged)["q"]["ndcg@10"] if any(grades.values()) else 0.0
    by_candidate = np.array([float(grades.get(document, 0)) for document in documents])
    found = weights.ndcg(order, ids, by_candidate, weights.ideal_dcg(grades.values()))
    assert found == pytest.approx(expected, abs=1e-9)


def test_the_live_weights_measure_as_the_evaluation_of_the_pipeline_does() -> None:
    judged_subject("bake", "bake", queries=4)
    live = view.weights("bake").normalized
    seen: list[tuple[int, int]] = []
    found = weights.measure(
        Measurement("bake", 0, 4, (Shares(*live), THEN)), lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert found.current == pytest.approx(measure_pipeline("bake").metrics["pipeline"]["ndcg@10"], abs=1e-9)
    assert len(found.curve) == STEPS + 1
    assert found.curve[80] == pytest.approx(found.current, abs=1e-9)
    assert found.curve[30] == pytest.approx(found.proposed, abs=1e-9)
    assert found.wins + found.losses <= 4
    assert found.is_finished


def test_a_measurement_is_followed_by_who_may_touch_its_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_subject("bake", "bake", queries=2)
    evaluator, queued = weights.JudgedEvaluator(), []
    monkeypatch.setattr("rag.tasks.measure_weights.delay", queued.append)
    assert evaluator.judged_collections(SYSTEM) == ["bake"]
    assert evaluator.judged_collections(STRANGER) == []
    with pytest.raises(NotFound):
        evaluator.start("bake", NOW, THEN, STRANGER)

    measurement_id = evaluator.start("bake", NOW, THEN, SYSTEM)
    waiting = evaluator.find(measurement_id, SYSTEM)
    assert (waiting.done, waiting.total, waiting.is_finished, waiting.shares) == (0, 2, False, (NOW, THEN))
    for stranger, name in ((STRANGER, measurement_id), (SYSTEM, "0" * 32), (SYSTEM, "../x")):
        with pytest.raises(NotFound):
            evaluator.find(name, stranger)

    weights.perform(queued[0])
    assert evaluator.find(measurement_id, SYSTEM).is_finished
    weights.perform("0" * 32)


def test_a_measurement_that_fails_says_why() -> None:
    weights._keep("a1", Measurement("nowhere", 0, 2, (NOW, THEN)))
    weights.perform("a1")
    found = weights.JudgedEvaluator().find("a1", SYSTEM)
    assert "no judged queries" in found.failure
    assert found.is_finished


def test_the_preview_shows_what_a_search_under_each_weight_would() -> None:
    judged_subject("bake", "bake", queries=1)
    query = "how long does the dough rest"
    sides = PipelinePreview().sides(query, "bake", NOW, THEN, SYSTEM)
    for shares, shown in ((NOW, sides.current), (THEN, sides.proposed)):
        registry_weights.change(registry_weights.propose(*shares), by=SYSTEM)
        view.expire()
        answer = search(SearchRequest(query, "bake", 10), SYSTEM)
        assert [result.chunk_id for result in shown] == [result["chunk_id"] for result in answer["results"]]
        assert [result.rank for result in shown] == list(range(1, len(shown) + 1))
    places = {result.chunk_id: result.rank for result in sides.proposed}
    for result in sides.current:
        assert result.other_rank == places.get(result.chunk_id, result.other_rank)
        assert result.moved == result.other_rank - result.rank
    assert sides.changed == sum(result.other_rank > 10 for result in sides.current)


def test_a_second_look_at_a_query_embeds_and_retrieves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    judged_subject("bake", "bake", queries=1)
    preview = PipelinePreview()
    preview.sides("dough", "bake", NOW, THEN, SYSTEM)
    monkeypatch.setattr("rag.pipeline.search.score", None)
    assert preview.sides("dough", "bake", NOW, Shares(0.1, 0.9), SYSTEM).current


def test_the_preview_is_for_who_may_touch_the_collection() -> None:
    judged_subject("bake", "bake", queries=1)
    assert "bake" in PipelinePreview().collections(SYSTEM)
    assert PipelinePreview().collections(STRANGER) == []
    with pytest.raises(NotFound):
        PipelinePreview().sides("dough", "bake", NOW, THEN, STRANGER)
