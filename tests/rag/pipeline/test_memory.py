"""What was judged relevant to similar queries: the same in training and serving, and never a query's own answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from ops.models import AuditEvent
from rag import memory
from rag.evaluation.run import evaluate, measure
from rag.models import Collection, Document, JudgedQuery, Judgement
from rag.pipeline.features import COLUMN
from rag.pipeline.judged import read_memory
from rag.pipeline.memory import NOTHING, Memory, remembered
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress, SearchRequest, score, search
from rag.pipeline.snapshot import resolve
from rag.recipes.judged import read_collection
from rag.recipes.ltr import prepare, with_memory
from tests.rag.evaluation.support import judge, judged_subject

documents = np.array


def pairs(*entries: tuple[int, float]) -> Memory:
    ids, similarities = zip(*entries, strict=True)
    return Memory(np.array(ids, dtype=np.int64), np.array(similarities, dtype=np.float32))


class TestFormula:
    def test_a_document_counts_by_the_likest_query_that_it_answers(self) -> None:
        values = remembered(pairs((7, 0.5), (8, 1.0), (7, 0.9), (9, 0.2)), documents([7, 8, 6, 7]))
        assert values == pytest.approx([0.9**4, 1.0, 0.0, 0.9**4], abs=1e-6)

    def test_unlike_queries_say_nothing(self) -> None:
        assert not remembered(pairs((7, -0.9), (8, 0.0)), documents([7, 8])).any()

    def test_without_judgements_nothing_is_remembered(self) -> None:
        assert remembered(NOTHING, documents([1, 2])).tolist() == [0, 0]
        assert len(remembered(pairs((1, 1.0)), documents([], dtype=np.int64))) == 0


@pytest.fixture(scope="module")
def judged(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    return judged_subject("bees", "bees")


@pytest.fixture
def remembering(judged: Collection) -> Collection:
    memory.turn_on(judged, SYSTEM)
    return judged


def memory_column(collection: Collection, query: str, judged_as: str | None = None) -> dict[int, float]:
    """The feature as it is served, by document."""
    scored, _, _ = score(normalize_query(query), {}, resolve(collection.slug, SYSTEM), Progress("x"), judged_as)
    return dict(zip(scored.document_ids.tolist(), scored.features[:, COLUMN["memory"]].tolist(), strict=True))


def keys(collection: Collection, names: Sequence[str]) -> set[int]:
    return set(Document.objects.filter(collection=collection, document_id__in=names).values_list("id", flat=True))


@pytest.mark.django_db
@pytest.mark.usefixtures("live_models", "empty_cache")
class TestServing:
    def test_a_collection_forgets_unless_it_is_told_to_remember(self, judged: Collection) -> None:
        query = JudgedQuery.objects.filter(collection=judged)[0]
        assert not any(memory_column(judged, query.text).values())

    def test_training_and_serving_see_the_same(self, remembering: Collection) -> None:
        groups = prepare(read_collection("bees", lambda done, total: None))
        assert not any(group.features.values[:, COLUMN["memory"]].any() for group in groups)
        compared = 0
        for group in with_memory(groups, groups):
            text = JudgedQuery.objects.get(collection=remembering, query_id=group.query_id).text
            served = memory_column(remembering, text, judged_as=group.query_id)
            trained = group.features.values[:, COLUMN["memory"]]
            assert [served[document] for document in group.document_ids.tolist()] == pytest.approx(
                trained.tolist(), abs=1e-5
            )
            compared += np.count_nonzero(trained)
        assert compared > len(groups)

    def test_no_evaluated_query_sees_its_own_judgements(self, remembering: Collection) -> None:
        judge(remembering, {"alone": "how is a hive opened in winter"}, [("alone", "bees-01", 1)])
        Judgement.objects.filter(query__collection=remembering).exclude(query__query_id="alone").delete()
        memory.refresh(remembering)
        asked = JudgedQuery.objects.get(collection=remembering, query_id="alone")
        assert not any(memory_column(remembering, asked.text, judged_as="alone").values())
        (own,) = keys(remembering, ["bees-01"])
        assert memory_column(remembering, asked.text)[own] == pytest.approx(1, abs=1e-4)

    def test_an_evaluation_is_that_of_each_query_without_itself(self, judged: Collection) -> None:
        query = JudgedQuery.objects.filter(collection=judged)[0]
        twin = {"twin": query.text}
        before = measure("bees").per_query["pipeline"]
        memory.turn_on(judged, SYSTEM)
        Judgement.objects.filter(query__collection=judged).exclude(query=query).delete()
        # Nobody else is judged, so the only query left has nothing to remember.
        assert evaluate("bees").per_query["pipeline"][query.query_id] == before[query.query_id]
        judge(judged, twin, [("twin", "bees-01", 1)])
        memory.refresh(judged)
        assert memory_column(judged, query.text, judged_as=query.query_id)[keys(judged, ["bees-01"]).pop()] > 0.99

    def test_a_cached_answer_does_not_outlive_what_is_remembered(self, judged: Collection) -> None:
        request = SearchRequest(query="bees in winter", collection="bees", explain=True)
        assert search(request, SYSTEM)["cache"] == "none"
        assert search(request, SYSTEM)["cache"] == "full"
        memory.turn_on(judged, SYSTEM)
        remembering = search(request, SYSTEM)
        assert remembering["cache"] == "none"
        assert any(result["features"]["memory"] for result in remembering["results"])
        memory.turn_off(judged, SYSTEM)
        assert not any(result["features"]["memory"] for result in search(request, SYSTEM)["results"])

    def test_a_query_without_embedding_remembers_nothing(self, remembering: Collection) -> None:
        snapshot = resolve("bees", SYSTEM).snapshot
        zeros = np.zeros(snapshot.space.dimension, dtype=np.float32)
        # It asks nothing of the database: there is no direction to be near to.
        assert read_memory(None, snapshot, zeros) is NOTHING  # type: ignore[arg-type]

    def test_the_command_turns_it_on_and_off_and_is_audited(self, judged: Collection, capsys: object) -> None:
        call_command("memory", "on", "--collection", "bees")
        judged.refresh_from_db()
        assert judged.remembers_judgements
        call_command("memory", "off", "--collection", "bees")
        judged.refresh_from_db()
        assert not judged.remembers_judgements
        actions = set(AuditEvent.objects.filter(target="bees").values_list("action", flat=True))
        assert {"memory.on", "memory.off"} <= actions
        with pytest.raises(CommandError, match="no collection 'nowhere'"):
            call_command("memory", "on", "--collection", "nowhere")
