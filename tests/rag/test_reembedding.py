"""Another embedder for a collection: filled beside the live one, switched to when it is whole, and back."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.core.management import CommandError, call_command

from models_registry import deployments
from models_registry.live import not_deployed, view
from models_registry.models import GLOBAL_SCOPE, ModelVersion, Slot
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Conflict, Unprocessable
from rag import reembedding, spaces
from rag.embedders import register_embedder
from rag.evaluation.run import evaluate
from rag.ingest import service
from rag.ingest.plan import Offer
from rag.models import Chunk, Collection, DocEmbedding, Document, IndexItem, ItemState
from rag.pipeline.embed import Space
from rag.pipeline.search import SearchRequest, search
from rag.pipeline.types import Float32Array
from rag.recipes.onnx_export import export
from rag.reembedding import coverage_of, drop, fill, fill_live
from rag.spaces import load_embedder, space_of
from tests.rag.evaluation.support import judged_subject
from tests.rag.ingest_service.support import assert_consistent
from tests.rag.tiny_models import make_model

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(scope="module")
def exported_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reembedding")
    export(make_model(folder / "tiny"), folder / "exported", query_prompt="q: ", document_prompt="d: ")
    return folder / "exported"


@pytest.fixture
def tiny(exported_tiny: Path) -> Any:
    """A registered embedder with vectors of 16 numbers; what this process remembers of it is forgotten afterwards."""
    yield register_embedder("tiny", exported_tiny, "test")
    spaces.forget()
    view.expire()


@pytest.fixture
def bees(tiny: ModelVersion) -> Collection:
    collection = Collection.objects.create(slug="bees", chunk_tokens=64)
    offers = [
        Offer(f"d{n}", f"# Part {n}\n\nBees dance {n} times.\n\n# More\n\nAnd rest.", f"Bees {n}") for n in range(5)
    ]
    index(collection, *offers)
    return collection


def index(collection: Collection, *offers: Offer, embedder: Any = None) -> dict[str, tuple[str, str]]:
    """Index documents; ``{id: (state, reason)}``."""
    run = service.start_run(collection, offers, SYSTEM, "test", enqueue=False)
    while service.process_batch(run.id, embedder):
        pass
    return {item.document_id: (item.state, item.reason) for item in IndexItem.objects.filter(run=run)}


def live_version(slug: str = "bees") -> ModelVersion:
    deployed = deployments.effective(Slot.EMBEDDER, slug)
    assert deployed is not None
    assert deployed.model_version is not None
    return deployed.model_version


def vectors(collection: Collection, version: ModelVersion) -> dict[int, list[float]]:
    rows = DocEmbedding.objects.filter(collection=collection, space=space_of(not_deployed(Slot.EMBEDDER, version)).id)
    return {row.chunk_id: list(row.embedding) for row in rows}


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("embedder", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as caught:
        run(*arguments)
    assert caught.value.returncode == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestFill:
    def test_it_gives_the_vectors_that_indexing_with_that_embedder_gives(
        self, bees: Collection, tiny: ModelVersion
    ) -> None:
        chunks = Chunk.objects.filter(collection=bees).count()
        seen: list[tuple[int, int]] = []
        assert fill(bees, tiny, lambda done, total: seen.append((done, total))) == chunks
        assert (seen[0], seen[-1]) == ((0, chunks), (chunks, chunks))
        assert fill(bees, tiny) == 0
        filled = {
            (chunk.document.document_id, chunk.ordinal): vectors(bees, tiny)[chunk.id]
            for chunk in Chunk.objects.filter(collection=bees).select_related("document")
        }
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        view.expire()
        for document_id in ("d0", "d3"):
            service.process_batch(service.reindex_document(bees, document_id, SYSTEM).id)
        for chunk in Chunk.objects.filter(collection=bees, document__document_id__in=["d0", "d3"]):
            key = (chunk.document.document_id, chunk.ordinal)
            assert vectors(bees, tiny)[chunk.id] == pytest.approx(filled[key], abs=1e-5)

    def test_an_interrupted_one_goes_on_where_it_stopped(
        self, bees: Collection, tiny: ModelVersion, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reembedding, "CHUNKS_PER_BATCH", 2)

        def stop(done: int, total: int) -> None:
            if done >= 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fill(bees, tiny, stop)
        kept = vectors(bees, tiny)
        assert len(kept) == 4
        assert fill(bees, tiny) == coverage_of(bees, tiny).chunks - 4
        assert coverage_of(bees, tiny).missing == 0
        assert kept.items() <= vectors(bees, tiny).items()

    def test_the_live_space_answers_as_before_and_from_its_caches(self, bees: Collection, tiny: ModelVersion) -> None:
        request = SearchRequest("bees dance", collection="bees")
        before = search(request, SYSTEM)["results"]
        fill(bees, tiny)
        after = search(request, SYSTEM)
        assert (after["results"], after["cache"]) == (before, "full")

    def test_filling_what_is_live_renews_cached_answers(self, bees: Collection, tiny: ModelVersion) -> None:
        request = SearchRequest("bees dance", collection="bees")
        before = search(request, SYSTEM)["results"]
        DocEmbedding.objects.filter(collection=bees).delete()
        assert fill(bees, live_version()) == coverage_of(bees, live_version()).chunks
        after = search(request, SYSTEM)
        assert (after["results"], after["cache"]) == (before, "none")

    def test_what_was_indexed_meanwhile_is_completed_by_the_background_task(
        self, bees: Collection, tiny: ModelVersion
    ) -> None:
        fill(bees, tiny)
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        # A writer that had not heard of the switch: its vectors are of the old space.
        index(bees, Offer("late", "Late bees."), embedder=load_embedder(view.model(Slot.EMBEDDER, "other")))
        assert coverage_of(bees, tiny).missing == 1
        assert fill_live() == 1
        assert coverage_of(bees, tiny).missing == 0
        assert fill_live() == 0

    def test_chunks_that_do_not_fit_the_embedder_are_refused(self, bees: Collection, tiny: ModelVersion) -> None:
        Collection.objects.filter(slug="bees").update(chunk_tokens=220)
        with pytest.raises(Unprocessable, match="tiny@1 reads 128 tokens"):
            fill(Collection.objects.get(slug="bees"), tiny)


class TestSwitch:
    def test_it_is_refused_while_vectors_are_missing(self, bees: Collection, tiny: ModelVersion) -> None:
        for scope in ("bees", GLOBAL_SCOPE):
            with pytest.raises(
                Unprocessable, match=r"no vector of tiny@1 yet: \d+ of \d+ in 'bees'.*embedder embed bees"
            ):
                deployments.activate(Slot.EMBEDDER, tiny, scope, by=SYSTEM)
        fill(bees, tiny)
        DocEmbedding.objects.filter(embedding__isnull=False, chunk__ordinal=0).latest("id").delete()
        with pytest.raises(Unprocessable, match="1 of"):
            deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM, force=True)

    def test_an_empty_collection_needs_nothing(self, tiny: ModelVersion) -> None:
        Collection.objects.create(slug="empty", chunk_tokens=64)
        deployments.activate(Slot.EMBEDDER, tiny, "empty", by=SYSTEM)

    def test_unchanged_documents_stay_unchanged_under_another_embedder(
        self, bees: Collection, tiny: ModelVersion
    ) -> None:
        fill(bees, tiny)
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        view.expire()
        found = service.reindex_collection(bees, SYSTEM)
        assert (found.total, found.unchanged) == (5, 5)

    def test_the_old_vectors_stay_until_they_are_dropped(self, bees: Collection, tiny: ModelVersion) -> None:
        old = live_version()
        count = len(vectors(bees, old))
        fill(bees, tiny)
        with pytest.raises(Conflict, match="activate another before"):
            drop(bees, old, SYSTEM)
        deployments.activate(Slot.EMBEDDER, tiny, "bees", by=SYSTEM)
        assert drop(bees, old, SYSTEM, dry_run=True) == len(vectors(bees, old)) == count
        assert drop(bees, old, SYSTEM) == count
        assert vectors(bees, old) == {}
        assert_consistent(bees)


class TestCommand:
    def test_the_whole_way_there_and_back(self, tmp_path: Path) -> None:
        bake = judged_subject("bake", "bake", queries=4)
        Collection.objects.filter(slug="bake").update(chunk_tokens=64)
        make_model(tmp_path / "small", pooling="cls")
        assert "Nothing was exported" in run("add", str(tmp_path / "small"), "--dry-run")
        assert not ModelVersion.objects.filter(model__name="small").exists()
        added = run("add", str(tmp_path / "small"), "--query-prompt", "find: ")
        assert "small@1: 16 numbers, 128 tokens, cls pooling, normalised" in added
        assert "query prompt 'find: '" in added
        assert "small@1" in run("list")
        missing = f"{bake.chunks.count()} of {bake.chunks.count()} passages lack a vector of small@1"
        assert missing in run("embed", "bake", "--embedder", "small", "--dry-run")
        assert "have no vector of small@1 yet" in refused("activate", "small", "--collection", "bake")
        before = search(SearchRequest("sourdough", collection="bake"), SYSTEM)
        assert f"{bake.chunks.count()} passages of 'bake' embedded" in run("embed", "bake", "--embedder", "small@1")
        assert "small@1 is the embedder in 'bake'" in (done := run("activate", "small", "--collection", "bake"))
        assert "The live ranker was trained with" in done
        answer = search(SearchRequest("sourdough", collection="bake", explain=True), SYSTEM)
        assert (answer["models"]["embedder"], answer["degraded"], answer["cache"]) == ("small@1", [], "none")
        assert evaluate("bake").snapshot["space"]["label"] == "small@1"
        assert "is the embedder of 'bake'" in refused("drop", "small", "--collection", "bake")
        call_command("registry", "rollback", "embedder", "--collection", "bake", stdout=io.StringIO())
        view.expire()
        back = search(SearchRequest("sourdough", collection="bake"), SYSTEM)
        assert (back["results"], back["cache"]) == (before["results"], "full")
        count = f"{bake.chunks.count()} vectors of small@1 in 'bake'"
        assert f"{count} would be deleted" in run("drop", "small", "--collection", "bake", "--dry-run")
        assert f"{count} deleted" in run("drop", "small", "--collection", "bake")
        spaces.forget()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["add", "/nowhere"], "no name that a model can have"),
            (["show", "nothing"], "no model version 'nothing'"),
            (["show", "ltr-default"], "is no embedder"),
            (["embed", "nowhere"], "no collection 'nowhere'"),
            (["activate", "all-MiniLM-L6-v2", "--collection", "nowhere"], "no collection 'nowhere'"),
        ],
    )
    def test_refusals_are_one_line(self, arguments: list[str], message: str) -> None:
        assert message in refused(*arguments)


class Wrong:
    """An embedder that gives what it is told to."""

    def __init__(self, space: Space, answer: Float32Array) -> None:
        self.space, self._answer = space, answer

    def embed_documents(self, texts: list[str]) -> Float32Array:
        return np.repeat(self._answer[None], len(texts), axis=0)

    def count_tokens(self, texts: list[str]) -> list[int]:
        return [len(text.split()) for text in texts]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.full(384, np.nan, dtype=np.float32), "not numbers"),
        (np.full(384, np.inf, dtype=np.float32), "not numbers"),
        (np.ones(383, dtype=np.float32), "shape"),
        (np.ones(0, dtype=np.float32), "shape"),
    ],
    ids=["NaN", "infinity", "too short", "empty"],
)
def test_vectors_that_are_none_never_reach_the_table(answer: Float32Array, reason: str) -> None:
    collection = Collection.objects.create(slug="bad")
    wrong = Wrong(space_of(view.model(Slot.EMBEDDER, "bad")), answer)
    assert index(collection, Offer("a", "Bees."), Offer("b", "Mites."), embedder=wrong).keys() == {"a", "b"}
    for state, why in IndexItem.objects.filter(run__collection=collection).values_list("state", "reason"):
        assert (state, reason in why) == (ItemState.FAILED, True)
    assert not DocEmbedding.objects.filter(collection=collection).exists()
    assert not Chunk.objects.filter(collection=collection).exists()
    assert Document.objects.filter(collection=collection, state="failed").count() == 2
    assert search(SearchRequest("bees", collection="bad"), SYSTEM)["results"] == []
    assert json.dumps(index(collection, Offer("a", "Bees."))["a"][0]) == '"added"'
