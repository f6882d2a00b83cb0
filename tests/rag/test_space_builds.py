"""Blue/green for embedders: filled in slices, checked, switched under load, kept, dropped."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client

from models_registry import clock, deployments, rollouts, space_builds, tasks
from models_registry.live import not_deployed, view
from models_registry.models import ModelVersion, Slot, SpaceBuild
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Conflict, Unprocessable
from rag import reembedding
from rag.ingest.plan import Offer
from rag.models import Chunk, Collection, DocEmbedding, JudgedQuery, Judgement
from rag.pipeline.query import normalize_query
from rag.pipeline.search import SearchRequest, search
from rag.reembedding import coverage_of
from rag.spaces import load_embedder
from tests.rag.test_reembedding import bees, exported_tiny, index, live_version, run, tiny

__all__ = ["bees", "exported_tiny", "tiny"]

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


def work(build: SpaceBuild, slice_s: float = 3600.0) -> SpaceBuild:
    """What the workers do, slice by slice, until there is nothing more."""
    while space_builds.work(build.pk, slice_s) is not None:
        pass
    return space_builds.find(build.pk)


def cosine_distances(collection: Collection, version: ModelVersion, query: str) -> dict[int, float]:
    """By chunk: from the query's vector to the chunk's own, both of the version's space."""
    embedder = load_embedder(not_deployed(Slot.EMBEDDER, version))
    (asked,) = embedder.embed_queries([normalize_query(query)])
    rows = DocEmbedding.objects.filter(collection=collection, space=embedder.space.id)
    stored = {row.chunk_id: np.asarray(row.embedding, np.float64) for row in rows}
    return {
        chunk_id: 1 - float(vector @ asked / (np.linalg.norm(vector) * np.linalg.norm(asked)))
        for chunk_id, vector in stored.items()
    }


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
        assert space_builds.drop(build.pk, by=SYSTEM, dry_run=True) == build.total
        assert coverage_of(bees, before).missing == 0
        assert space_builds.drop(build.pk, by=SYSTEM) == build.total
        assert coverage_of(bees, before).vectors == 0
        with pytest.raises(Conflict, match="nothing behind"):
            space_builds.drop(build.pk, by=SYSTEM)

    def test_a_rollback_finds_the_space_of_before_complete(self, bees: Collection, tiny: ModelVersion) -> None:
        before = live_version()
        build = work(space_builds.start(tiny, "bees", by=SYSTEM))
        space_builds.switch(build.pk, by=SYSTEM)
        view.expire()  # as a commit does, which a test never comes to
        index(bees, Offer("late", "Bees that came after the switch."))
        assert coverage_of(bees, before).missing == 1
        reembedding.fill_live()
        assert coverage_of(bees, before).missing == 0, "the workers keep it complete"
        index(bees, Offer("later", "Bees that came just now."))
        assert space_builds.roll_back(build.pk, by=SYSTEM, reason="worse in use").state == "rolled_back"
        assert live_version() == before
        assert coverage_of(bees, before).missing == 0, "and so does the rollback"
        with pytest.raises(Conflict, match="no switch to take back"):
            space_builds.roll_back(build.pk, by=SYSTEM)
        assert space_builds.drop(build.pk, by=SYSTEM) == build.total + 2  # what the build made, and what came after
        assert live_version() == before

    def test_whoever_goes_back_by_the_registry_keeps_both_spaces(self, bees: Collection, tiny: ModelVersion) -> None:
        build = work(space_builds.start(tiny, "bees", by=SYSTEM, keep_hours=1))
        assert space_builds.switch(build.pk, by=SYSTEM).drops_at is not None
        deployments.rollback(Slot.EMBEDDER, "bees", by=SYSTEM)
        build = space_builds.find(build.pk)
        assert (build.state, build.drops_at) == ("rolled_back", None)

    def test_the_space_of_before_is_dropped_by_itself_when_its_time_is_over(
        self, bees: Collection, tiny: ModelVersion
    ) -> None:
        before = live_version()
        build = work(space_builds.start(tiny, "bees", by=SYSTEM, keep_hours=48))
        build = space_builds.switch(build.pk, by=SYSTEM)
        assert build.drops_at is not None
        assert build.finished_at is not None
        assert build.drops_at - build.finished_at == timedelta(hours=48)
        tasks.drop_spaces()
        assert coverage_of(bees, before).missing == 0
        SpaceBuild.objects.update(drops_at=clock.now())
        tasks.drop_spaces()
        assert coverage_of(bees, before).vectors == 0
        assert space_builds.find(build.pk).state == "dropped"
        assert live_version() == tiny

    def test_a_space_that_something_answers_with_outlives_its_time(self, bees: Collection, tiny: ModelVersion) -> None:
        before = live_version()
        build = work(space_builds.start(tiny, "bees", by=SYSTEM))
        space_builds.switch(build.pk, by=SYSTEM)
        rollout = rollouts.start(before, "bees", by=SYSTEM)
        SpaceBuild.objects.update(drops_at=clock.now())
        assert space_builds.drop_due() == []
        assert coverage_of(bees, before).missing == 0
        rollouts.abort(rollout.pk, by=SYSTEM)
        assert space_builds.drop_due() == [build.pk]

    def test_a_check_can_be_made_again_once_more_was_judged(self, bees: Collection, tiny: ModelVersion) -> None:
        build = work(space_builds.start(tiny, "bees", by=SYSTEM))
        assert build.check_result == {}
        judge(bees)
        assert space_builds.check(build.pk, by=SYSTEM).state == "checking"
        assert set(work(build).check_result) == {"bees"}

    def test_a_killed_worker_loses_a_batch_at_most_and_the_build_goes_on(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reembedding, "CHUNKS_PER_BATCH", 2)
        build = space_builds.start(tiny, "bees", by=SYSTEM)
        assert space_builds.work(build.pk, slice_s=0.0) == 0.0  # one batch, then the next task
        assert SpaceBuild.objects.get(pk=build.pk).done == 2
        now = clock.now() + timedelta(minutes=5)
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
        assert "is checked again" in run("build-check", str(build.pk))
        work(build)
        assert "is the embedder of bees" in run("build-switch", str(build.pk))
        assert "is the embedder of bees again" in run("build-rollback", str(build.pk))
        assert f"{build.total} vectors would be deleted" in run("build-drop", str(build.pk), "--dry-run")
        assert f"{build.total} vectors deleted" in run("build-drop", str(build.pk))


class TestApi:
    BUILDS = "/registry/space-builds"

    @pytest.fixture
    def api(self) -> Client:
        key = keys.create_key("builder", [Scope.REGISTRY_READ, Scope.REGISTRY_WRITE], actor=SYSTEM)
        return Client(headers={"Authorization": f"Bearer {key.text}"})

    def post(self, api: Client, path: str = "", **body: Any) -> tuple[int, Any]:
        answer = api.post(f"{self.BUILDS}{path}", body, content_type="application/json")
        return answer.status_code, answer.json()

    def test_a_build_from_its_start_to_the_last_vector_of_its_forerunner(
        self, api: Client, bees: Collection, tiny: ModelVersion
    ) -> None:
        before = live_version()
        status, build = self.post(api, embedder="tiny", collection="bees", keep_hours=24, reason="smaller")
        assert (status, build["state"], build["before"], build["done"]) == (202, "pending", str(before), 0)
        one = f"/{build['id']}"
        assert self.post(api, f"{one}/switch")[0] == 409
        work(space_builds.find(build["id"]))
        found = api.get(f"{self.BUILDS}{one}").json()
        assert (found["state"], found["done"]) == ("ready", found["total"])
        assert self.post(api, f"{one}/check")[1]["state"] == "checking"
        work(space_builds.find(build["id"]))
        switched = self.post(api, f"{one}/switch", reason="go")[1]
        assert (switched["state"], switched["left_behind"]) == ("switched", str(before))
        assert switched["drops_at"] is not None
        assert self.post(api, f"{one}/drop", dry_run=True) == (200, {"vectors": found["total"], "build": switched})
        assert self.post(api, f"{one}/rollback", reason="worse")[1]["state"] == "rolled_back"
        assert live_version() == before
        assert self.post(api, f"{one}/drop")[0] == 202
        tasks.drop_spaces()
        assert api.get(f"{self.BUILDS}?state=dropped&scope=bees").json()["results"][0]["id"] == build["id"]
        assert coverage_of(bees, tiny).vectors == 0

    def test_bad_input_is_told_and_others_collections_are_not(
        self, api: Client, bees: Collection, tiny: ModelVersion
    ) -> None:
        assert self.post(api, embedder="nothing")[0] == 404
        assert self.post(api, embedder="tiny", collection="bees", keep_hours=-1)[0] == 422
        assert self.post(api, embedder="tiny", collection="bees", chunks_per_minute=0)[0] == 422
        status, build = self.post(api, embedder="tiny", collection="bees")
        assert status == 202
        assert self.post(api, embedder="tiny", collection="bees")[0] == 409
        limited = keys.create_key("other", [Scope.REGISTRY_READ], collections=["other"], actor=SYSTEM)
        stranger = Client(headers={"Authorization": f"Bearer {limited.text}"})
        assert stranger.get(f"{self.BUILDS}/{build['id']}").status_code == 404
        assert stranger.get(self.BUILDS).json()["results"] == []


class TestAdmin:
    PAGES = "/admin/models_registry/spacebuild"

    def test_a_build_is_started_followed_switched_taken_back_and_dropped(
        self, bees: Collection, tiny: ModelVersion
    ) -> None:
        judge(bees)
        before = live_version()
        admin = Client()
        admin.force_login(User.objects.create_superuser("ada"))
        started = admin.post(
            f"{self.PAGES}/add/", {"version": tiny.pk, "collection": "bees", "keep_hours": "24", "reason": "smaller"}
        )
        build = SpaceBuild.objects.get()
        page = started["Location"]
        assert page == f"{self.PAGES}/{build.pk}/change/"
        assert 'hx-trigger="every 2s"' in admin.get(page).content.decode()
        work(build)
        assert "ndcg@10" in admin.get(f"{self.PAGES}/{build.pk}/progress/").content.decode()

        def act(action: str) -> str:
            admin.post(f"{self.PAGES}/{build.pk}/act/{action}/", {"reason": "why not"})
            return space_builds.find(build.pk).state

        assert act("drop") == "ready"  # not offered in this state
        assert act("force" if space_builds.losses(space_builds.find(build.pk).check_result) else "switch") == "switched"
        assert live_version() == tiny
        assert "then dropped by themselves" in admin.get(page).content.decode()
        assert act("roll_back") == "rolled_back"
        assert live_version() == before
        act("drop")
        tasks.drop_spaces()
        assert space_builds.find(build.pk).state == "dropped"

    def test_who_may_only_look_can_not_act(self, bees: Collection, tiny: ModelVersion) -> None:
        build = space_builds.start(tiny, "bees", by=SYSTEM)
        reader = User.objects.create_user("rita", is_staff=True)
        reader.user_permissions.add(Permission.objects.get(codename="view_spacebuild"))
        client = Client()
        client.force_login(reader)
        assert "Change the build" not in client.get(f"{self.PAGES}/{build.pk}/change/").content.decode()
        assert client.post(f"{self.PAGES}/{build.pk}/act/cancel/").status_code == 403
        assert client.get(f"{self.PAGES}/add/").status_code == 403


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
            found = [(result["chunk_id"], result["distance"]) for result in answer["results"]]
            return answer["models"]["embedder"], found

        build = work(space_builds.start(tiny, "bees", by=SYSTEM))
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
        assert {embedder for _, embedder, _ in seen} == {str(before), str(tiny)}
        # Worked out from the stored vectors of the space that the answer names, without the pipeline.
        distances = {
            (str(version), query): cosine_distances(bees, version, query)
            for version in (before, tiny)
            for query in queries
        }
        for query, embedder, found in seen:
            assert found
            for chunk_id, distance in found:
                assert distance == pytest.approx(distances[embedder, query][chunk_id], abs=1e-4)
        assert all(
            abs(distances[str(before), query][chunk] - distances[str(tiny), query][chunk]) > 1e-3
            for query in queries
            for chunk in distances[str(before), query]
        ), "the spaces are so far apart that a mixed answer would show"
