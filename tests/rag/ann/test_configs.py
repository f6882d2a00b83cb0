"""What becomes of a configuration: built, measured, live, replaced, dropped, and what a dead builder leaves."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.management import CommandError
from django.db import connection
from pytest_django.fixtures import Settings

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Conflict, Forbidden, InvalidRequest, Unprocessable
from ops.instrumentation.batch import flush_all, forget_all
from ops.models import AuditEvent
from rag.ann import configs, indexes
from rag.ann.measure import measure
from rag.models import AnnConfig, AnnState, Collection, EmbeddingSpace, QueryLog
from rag.pipeline.query import SearchRequest
from rag.pipeline.search import search
from rag.pipeline.snapshot import resolve
from rag.tasks import build_ann, drop_ann
from tests.rag.ann.support import COUNT, Subject, run, subject
from tests.rag.pipeline.support import person

pytestmark = [pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def bees(module_transaction: None) -> Subject:
    view.expire()
    return subject("bees", COUNT)


def ready(bees: Subject, **given: Any) -> AnnConfig:
    return configs.build(configs.propose(*bees, {"strategy": "hnsw"} | given, by=SYSTEM))


@pytest.mark.django_db
class TestProposing:
    def test_settings_that_no_index_can_have_are_named(self, bees) -> None:
        with pytest.raises(InvalidRequest) as refused:
            configs.propose(*bees, {"m": 1, "ef_search": 0, "strategy": "lsh"}, by=SYSTEM)
        assert set(refused.value.errors) == {"m", "ef_search", "strategy"}
        with pytest.raises(InvalidRequest, match="twice m"):
            configs.propose(*bees, {"m": 40, "ef_construction": 64}, by=SYSTEM)

    def test_a_space_of_too_many_dimensions_needs_a_lower_precision(self, bees) -> None:
        wide = EmbeddingSpace.objects.create(slug="wide", model_name="w", dimension=3000, max_tokens=9)
        with pytest.raises(InvalidRequest, match="2000"):
            configs.propose(bees[0], wide, {}, by=SYSTEM)
        assert configs.propose(bees[0], wide, {"precision": "half"}, by=SYSTEM).state == AnnState.BUILDING

    def test_it_needs_the_right_to_change_what_is_live(self, bees) -> None:
        with pytest.raises(Forbidden):
            configs.propose(*bees, {}, by=person("kim"))

    def test_other_search_settings_share_the_index_and_it_goes_with_the_last(self, bees) -> None:
        one = ready(bees)
        other = configs.propose(*bees, {"ef_search": 40}, by=SYSTEM)
        assert (other.state, other.index_name, other.marker) == (AnnState.READY, one.index_name, one.marker)
        assert configs.drop(one, by=SYSTEM) == ""
        assert indexes.existing() == [other.index_name]
        assert configs.drop(other, by=SYSTEM) == other.index_name or indexes.existing() == []
        assert indexes.existing() == []

    def test_a_rebuild_has_an_index_of_its_own(self, bees) -> None:
        one = ready(bees)
        again = configs.build(configs.propose(*bees, {}, by=SYSTEM, rebuild=True))
        assert again.index_name != one.index_name
        assert len(indexes.existing()) == 2


@pytest.mark.django_db
class TestBuilding:
    def test_a_built_index_has_its_size_and_time(self, bees) -> None:
        config = ready(bees)
        assert config.state == AnnState.READY
        assert config.vectors == COUNT
        assert config.size_bytes
        assert config.build_ms

    def test_a_failure_says_why_and_leaves_nothing(self, bees) -> None:
        live = configs.propose(*bees, {"strategy": "exact"}, by=SYSTEM)
        configs.activate(live, by=SYSTEM)
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE doc_embeddings SET embedding = '[1,2]' WHERE id IN (SELECT min(id) FROM doc_embeddings)"
            )
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        config = configs.propose(*bees, {"m": 8}, by=SYSTEM)
        with pytest.raises(Unprocessable, match="384 dimensions"):
            configs.build(config)
        config.refresh_from_db()
        assert (config.state, config.index_name) == (AnnState.FAILED, "")
        assert "384 dimensions" in config.failure
        assert indexes.existing() == []
        assert configs.live(bees[0].id, bees[1].id) == live

    def test_the_task_builds_and_measures(self, bees) -> None:
        config = configs.propose(*bees, {}, by=SYSTEM)
        build_ann(config.pk)
        config.refresh_from_db()
        assert (config.state, config.recall_at_10) == (AnnState.READY, 1.0)
        drop_ann(config.pk)
        build_ann(config.pk)
        config.refresh_from_db()
        assert (config.state, indexes.existing()) == (AnnState.RETIRED, [])


@pytest.mark.django_db
class TestMeasuring:
    def test_it_asks_what_was_asked_before_anything_else(self, bees) -> None:
        forget_all()  # searches of other tests
        search(SearchRequest(query="honey of the hive", collection="bees"), SYSTEM)
        flush_all()
        assert QueryLog.objects.count() == 1
        config = measure(ready(bees), by=SYSTEM, queries=5)
        assert config.recall_source == "1 log, 4 passages"
        assert (config.recall_queries, config.recall_at_10) == (5, 1.0)
        assert config.search_p95_ms >= config.search_p50_ms > 0

    def test_without_documents_there_is_nothing_to_measure(self, bees) -> None:
        empty = Collection.objects.create(slug="empty")
        with pytest.raises(Conflict, match="index documents first"):
            measure(configs.build(configs.propose(empty, bees[1], {}, by=SYSTEM)), by=SYSTEM)

    def test_in_a_space_without_its_embedder_vectors_stand_in(self, bees) -> None:
        other = EmbeddingSpace.objects.create(slug="other", model_name="o", dimension=384, max_tokens=9)
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO doc_embeddings (chunk_id, space_id, collection_id, embedding) "
                "SELECT chunk_id, %s, collection_id, embedding FROM doc_embeddings",
                [other.id],
            )
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        config = configs.build(configs.propose(bees[0], other, {}, by=SYSTEM))
        assert measure(config, by=SYSTEM, queries=7).recall_source == "7 vectors"


@pytest.mark.django_db
class TestActivating:
    def test_the_next_search_goes_by_it_and_no_cached_answer_is_from_before(self, bees) -> None:
        request = SearchRequest(query="honey", collection="bees")
        search(request, SYSTEM)
        assert search(request, SYSTEM)["cache"] == "full"
        config = measure(ready(bees), by=SYSTEM, queries=3)
        assert configs.activate(config, by=SYSTEM) is None
        # Searched first: whoever resolves without asking the caches reads everything anew, and what was read is kept.
        assert search(request, SYSTEM)["cache"] == "none"
        assert resolve("bees", SYSTEM).snapshot.ann.config_id == config.pk
        assert resolve("bees", SYSTEM).snapshot.as_dict()["ann"]["strategy"] == "hnsw"

    def test_one_is_live_and_the_one_before_is_retired(self, bees) -> None:
        one, other = (measure(ready(bees, m=m), by=SYSTEM, queries=3) for m in (8, 16))
        configs.activate(one, by=SYSTEM)
        before = configs.activate(other, by=SYSTEM)
        assert before == one
        assert before.state == AnnState.RETIRED
        assert configs.live(bees[0].id, bees[1].id) == other
        assert configs.activate(one, by=SYSTEM) == other
        assert configs.live(bees[0].id, bees[1].id) == one

    def test_it_is_refused_unmeasured_or_below_the_floor_unless_forced(self, bees, settings: Settings) -> None:
        config = ready(bees)
        with pytest.raises(Conflict, match="has not been measured"):
            configs.activate(config, by=SYSTEM)
        measure(config, by=SYSTEM, queries=3)
        AnnConfig.objects.filter(pk=config.pk).update(recall_at_10=0.5)
        with pytest.raises(Conflict, match=r"finds 0\.500"):
            configs.activate(config, by=SYSTEM)
        assert configs.live(bees[0].id, bees[1].id) is None
        configs.activate(config, by=SYSTEM, reason="a try", force=True)
        event = AuditEvent.objects.filter(action="ann.activate").latest("occurred_at")
        assert event.details["reason"] == "a try"
        assert "finds 0.500" in event.details["forced"]

    def test_going_back_to_exact_needs_no_measuring(self, bees) -> None:
        configs.activate(ready(bees), by=SYSTEM, force=True)
        configs.activate(configs.propose(*bees, {"strategy": "exact"}, by=SYSTEM), by=SYSTEM)
        assert resolve("bees", SYSTEM).snapshot.ann.is_exact

    def test_the_live_one_is_never_dropped(self, bees) -> None:
        config = ready(bees)
        configs.activate(config, by=SYSTEM, force=True)
        with pytest.raises(Conflict, match="is live"):
            configs.drop(config, by=SYSTEM)
        drop_ann(config.pk)
        assert indexes.existing() == [config.index_name]

    def test_what_has_no_index_is_not_put_live(self, bees) -> None:
        config = ready(bees)
        configs.drop(config, by=SYSTEM)
        with pytest.raises(Unprocessable, match="no complete index"):
            configs.activate(config, by=SYSTEM, force=True)


@pytest.mark.django_db
class TestCommand:
    def test_it_builds_measures_and_puts_live_in_one_go(self, bees) -> None:
        printed = run("build", "bees", "--precision", "half", "--queries", 4, "--activate", "--reason", "it grows")
        config = AnnConfig.objects.get()
        assert config.state == AnnState.LIVE
        assert "recall@10 1.000 over 4 queries" in printed
        assert "half precision" in run("list")
        assert "it grows" in run("show", config.pk)
        assert AuditEvent.objects.filter(action="ann.create").exists()

    def test_the_index_that_was_live_is_dropped_after_the_switch_unless_kept(self, bees) -> None:
        run("build", "bees", "--queries", 4, "--activate")
        (first,) = indexes.existing()
        assert f"its index {first} dropped" in run("build", "bees", "--m", 8, "--queries", 4, "--activate")
        (second,) = indexes.existing()
        assert second != first
        run("build", "bees", "--m", 4, "--queries", 4, "--activate", "--keep-old")
        assert len(indexes.existing()) == 2

    def test_a_dry_run_only_says_what_would_go(self, bees) -> None:
        config = ready(bees)
        assert config.index_name in run("drop", config.pk, "--dry-run")
        assert indexes.existing() == [config.index_name]
        assert config.index_name in run("drop", config.pk)
        assert indexes.existing() == []

    @pytest.mark.parametrize("arguments", [("show", 9), ("build", "nowhere"), ("activate", 9)])
    def test_it_refuses_on_one_line(self, bees, arguments) -> None:
        with pytest.raises(CommandError) as refused:
            run(*arguments)
        assert refused.value.returncode == 2
        assert "\n" not in str(refused.value)

    def test_what_a_deleted_collection_left_is_cleared_away_by_the_next_command(self, bees) -> None:
        config = ready(bees)
        AnnConfig.objects.all().delete()
        assert config.index_name in run("sweep", "--dry-run")
        assert indexes.existing() == [config.index_name]
        run("list")
        assert indexes.existing() == []
