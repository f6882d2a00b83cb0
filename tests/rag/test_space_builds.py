"""Blue/green for embedders: filled in slices, checked, switched under load, kept, dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from models_registry import deployments, space_builds
from models_registry.live import view
from models_registry.models import ModelVersion, Slot, SpaceBuild
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Conflict, Unprocessable
from rag import reembedding
from rag.models import Chunk, Collection, JudgedQuery, Judgement
from rag.pipeline.search import SearchRequest, search
from rag.reembedding import coverage_of
from tests.rag.test_reembedding import bees, exported_tiny, live_version, run, tiny

__all__ = ["bees", "exported_tiny", "tiny"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


def work(build: SpaceBuild, slice_s: float = 3600.0) -> SpaceBuild:
    """What the workers do, slice by slice, until there is nothing more."""
    while space_builds.work(build.pk, slice_s) is not None:
        pass
    return space_builds.find(build.pk)


def judge(collection: Collection) -> None:
    for number in range(5):
        query = JudgedQuery.objects.create(collection=collection, query_id=f"q{number}", text=f"dance {number} times")
        Judgement.objects.create(query=query, document_id=f"d{number}", grade=1)


class TestBuilding:
    def test_a_space_is_filled_checked_switched_to_kept_and_dropped(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(space_builds, "MAX_LOSS", 1.0)
        judge(bees)
        before = live_version()
        build = space_builds.start(tiny, "bees", by=SYSTEM, reason="smaller")
        assert (build.state, build.done, build.total) == ("pending", 0, Chunk.objects.filter(collection=bees).count())
        build = work(build)
        assert (build.state, build.done) == ("ready", build.total)
        assert set(build.check_result["bees"]) == {"stable", "candidate"}
        assert 0 <= build.check_result["bees"]["candidate"]["ndcg@10"] <= 1
        assert live_version() == before
        assert space_builds.switch(build.pk, by=SYSTEM).state == "switched"
        assert live_version() == tiny
        deployments.rollback(Slot.EMBEDDER, "bees", by=SYSTEM)  # the vectors from before are still there
        assert live_version() == before
        with pytest.raises(Conflict, match="activate another"):
            space_builds.drop(build.pk, by=SYSTEM)
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        assert space_builds.drop(build.pk, by=SYSTEM) == build.total
        assert coverage_of(bees, before).vectors == 0

    def test_a_killed_worker_loses_a_batch_at_most_and_the_build_goes_on(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reembedding, "CHUNKS_PER_BATCH", 2)
        build = space_builds.start(tiny, "bees", by=SYSTEM)
        assert space_builds.work(build.pk, slice_s=0.0) == 0.0  # one batch, then the next task
        assert SpaceBuild.objects.get(pk=build.pk).done == 2
        now = timezone.now() + timedelta(minutes=5)
        assert space_builds.take_stalled(now) == [build.pk]
        assert space_builds.take_stalled(now) == []
        assert work(build, slice_s=0.0).state == "ready"

    def test_a_rate_is_waited_for_outside_the_worker(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reembedding, "CHUNKS_PER_BATCH", 2)
        build = space_builds.start(tiny, "bees", by=SYSTEM, chunks_per_minute=1)
        wait_s = space_builds.work(build.pk)
        assert wait_s is not None
        assert 0 < wait_s <= 120  # two chunks at one a minute

    def test_a_candidate_that_ranks_worse_is_not_switched_to_unless_forced(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(space_builds, "MAX_LOSS", -1.0)  # nothing is good enough
        judge(bees)
        build = work(space_builds.start(tiny, "bees", by=SYSTEM, switches=True))
        assert build.state == "ready"
        with pytest.raises(Unprocessable, match="is worse than what is live"):
            space_builds.switch(build.pk, by=SYSTEM)
        assert space_builds.switch(build.pk, by=SYSTEM, force=True).state == "switched"

    def test_one_at_a_time_and_a_cancelled_one_is_left(self, bees: Collection, tiny: ModelVersion) -> None:
        build = space_builds.start(tiny, "bees", by=SYSTEM)
        with pytest.raises(Conflict, match="switch or cancel"):
            space_builds.start(tiny, "bees", by=SYSTEM)
        assert space_builds.cancel(build.pk, by=SYSTEM).state == "cancelled"
        assert space_builds.work(build.pk) is None
        with pytest.raises(Conflict, match="not ready"):
            space_builds.switch(build.pk, by=SYSTEM)

    def test_a_build_that_kills_its_workers_fails(self, bees: Collection, tiny: ModelVersion) -> None:
        build = space_builds.start(tiny, "bees", by=SYSTEM)
        SpaceBuild.objects.update(attempts=space_builds.MAX_ATTEMPTS)
        assert work(build).state == "failed"

    def test_the_command_follows_and_switches(self, bees: Collection, tiny: ModelVersion) -> None:
        assert "space build" in run("build", "tiny", "--collection", "bees")
        build = work(SpaceBuild.objects.get())
        assert "ready" in run("builds")
        assert "is the embedder of bees" in run("build-switch", str(build.pk))
        assert "vectors deleted" in run("build-drop", str(build.pk))


@pytest.mark.django_db(transaction=True)
class TestUnderLoad:
    def test_queries_during_the_switch_meet_no_error_and_no_mixed_space(
        self, bees: Collection, tiny: ModelVersion, settings: Any
    ) -> None:
        settings.RAG_RESPONSE_CACHE_TTL_S = settings.RAG_FEATURE_CACHE_TTL_S = 0
        settings.REGISTRY_REFRESH_INTERVAL_MS = 10
        before = live_version()
        queries = [f"bees dance {number}" for number in range(5)]

        def ask(query: str) -> tuple[str, list[tuple[int, float]]]:
            answer = search(SearchRequest(query, collection="bees"), SYSTEM)
            assert answer["degraded"] == []
            found = [(result["chunk_id"], round(result["distance"], 4)) for result in answer["results"]]
            return answer["models"]["embedder"], found

        build = work(space_builds.start(tiny, "bees", by=SYSTEM))
        expected = {(str(before), query): ask(query)[1] for query in queries}
        switched, stopping = threading.Event(), threading.Event()
        seen: list[tuple[str, str, list[tuple[int, float]]]] = []

        def load(number: int) -> None:
            try:
                turn = number
                while not stopping.is_set():
                    query = queries[turn % len(queries)]
                    seen.append((query, *ask(query)))
                    turn += 1
                    if switched.is_set() and seen[-1][1] == str(tiny):
                        return
            finally:
                connection.close()

        with ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(load, number) for number in range(4)]
            try:
                space_builds.switch(build.pk, by=SYSTEM)
                switched.set()
                for client in clients:
                    client.result(timeout=300)  # ends once it has been answered by the new space
            finally:
                stopping.set()
        view.expire()
        expected |= {(str(tiny), query): ask(query)[1] for query in queries}
        assert {embedder for _, embedder, _ in seen} >= {str(tiny)}
        for query, embedder, found in seen:
            assert found == expected[embedder, query]
