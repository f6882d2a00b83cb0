"""``milvus``: the outbox, feeding, and what becomes of a search while Milvus is behind, away or not built."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from ops.contracts.health import State
from ops.contracts.principal import SYSTEM
from rag.checks import retrieval_mode_is_configured
from rag.collections import delete_collection
from rag.ingest import writer
from rag.milvus import feed, outbox
from rag.milvus.service import deliver_now
from rag.milvus.service import milvus as open_milvus
from rag.models import Chunk, Collection, MilvusOutbox
from rag.pipeline import retrieval
from rag.pipeline.retrieval import check_retrieval
from rag.pipeline.search import SearchRequest, search
from tests.patience import PATIENCE_S
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import Text, fill, person, remove, unit_vectors
from tests.rag.retrieval.conftest import milvus_in_force
from tests.rag.retrieval.milvus import MilvusServer

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

DOCUMENTS = {
    "owls": Text("Owls hunt at night without a sound.", metadata={"year": 1999}),
    "bees": Text("Bees dance to tell each other where flowers are.", metadata={"year": 2001}),
    "staff": Text("Bees that only the staff may read about.", access_groups=["staff"]),
}


@pytest.fixture
def collection(milvus: MilvusServer) -> Collection:
    collection = Collection.objects.create(slug="birds")
    fill(collection, DOCUMENTS)
    return collection


def ask(query: str = "how bees dance", **given: Any) -> dict[str, Any]:
    return search(SearchRequest(query=query, collection="birds", **given), SYSTEM)


def found_by(answer: dict[str, Any], leg: str) -> set[str]:
    return {result["document_id"] for result in answer["results"] if result["matched_by"][leg] is not None}


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("milvus", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


class TestOutbox:
    def test_a_change_and_its_note_stand_or_fall_together(self, collection: Collection) -> None:
        deliver_now()
        undo = transaction.savepoint()
        remove(collection, "owls")
        assert MilvusOutbox.objects.count() == 1
        transaction.savepoint_rollback(undo)
        assert not MilvusOutbox.objects.exists()

    def test_only_the_mode_milvus_writes_it(self, collection: Collection, settings: Any) -> None:
        deliver_now()
        settings.RAG_RETRIEVAL_MODE = "pgvector"
        remove(collection, "owls")
        assert not MilvusOutbox.objects.exists()

    def test_it_waits_until_milvus_has_taken_it(self, collection: Collection, settings: Any) -> None:
        waiting = MilvusOutbox.objects.count()
        uri, settings.MILVUS_URI = settings.MILVUS_URI, "http://127.0.0.1:1"
        settings.MILVUS_WRITE_TIMEOUT_S = 0.5
        assert deliver_now() == 0
        assert MilvusOutbox.objects.count() == waiting == 3
        settings.MILVUS_URI, settings.MILVUS_WRITE_TIMEOUT_S = uri, PATIENCE_S
        assert deliver_now() == waiting
        assert deliver_now() == 0

    def test_delivering_again_changes_nothing(self, collection: Collection) -> None:
        notes = list(MilvusOutbox.objects.values("collection_id", "document_row_id", "noted_at"))
        deliver_now()
        before = ask()
        MilvusOutbox.objects.bulk_create(MilvusOutbox(**note) for note in reversed(notes * 2))
        assert deliver_now() == 2 * len(notes)
        assert "holds what PostgreSQL holds" in run("verify", "birds")
        assert ask()["results"] == before["results"]

    def test_another_process_that_feeds_is_left_to_it(self, collection: Collection) -> None:
        parameters = connection.get_connection_params()
        for ours in ("cursor_factory", "context", "prepare_threshold"):
            parameters.pop(ours, None)
        with psycopg.connect(**parameters, autocommit=True) as other:
            other.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"milvus-{collection.id}",))
            assert deliver_now() == 0
            other.execute("SELECT pg_advisory_unlock_all()")
            assert deliver_now() == 3

    def test_a_deleted_collection_is_forgotten(self, collection: Collection) -> None:
        deliver_now()
        with open_milvus() as store:
            assert store.copies(collection.id)
            delete_collection(collection, SYSTEM)
            deliver_now()
            assert store.copies(collection.id) == {}
        assert not MilvusOutbox.objects.exists()

    def test_vectors_of_one_more_space_are_copied_and_dropped_with_it(self, collection: Collection) -> None:
        deliver_now()
        second = make_space("second")
        chunks = list(Chunk.objects.filter(collection=collection).values_list("id", "document_id"))
        with writer.changing(collection.id) as change:
            writer.add_vectors(change, second.id, *map(list, zip(*chunks, strict=True)), unit_vectors(1, 3))
        deliver_now()
        with open_milvus() as store:
            assert store.count(store.alias(collection.id, second.id)) == 3
            while writer.drop_vectors(collection.id, second.id):
                pass
            deliver_now()
            assert second.id not in store.copies(collection.id)
        assert "holds what PostgreSQL holds" in run("verify", "birds")


class TestSearch:
    def test_an_answer_is_that_of_pgvector(self, collection: Collection, settings: Any) -> None:
        deliver_now()
        answer = ask()
        assert (answer["retrieval_mode"], answer["degraded"]) == ("milvus", [])
        assert ask()["cache"] == "full"
        settings.RAG_RETRIEVAL_MODE = "pgvector"
        ours = ask()
        assert (ours["retrieval_mode"], ours["cache"], ours["results"]) == ("pgvector", "none", answer["results"])

    def test_while_milvus_is_behind_the_answer_says_so_and_is_not_kept(self, collection: Collection) -> None:
        deliver_now()
        remove(collection, "owls")
        late = ask()
        assert (late["degraded"], found_by(late, "dense")) == (["freshness"], {"bees", "staff"})
        assert ask()["cache"] == "none"
        deliver_now()
        assert ask()["degraded"] == []

    def test_an_access_list_that_milvus_has_not_heard_of_is_obeyed(self, collection: Collection) -> None:
        deliver_now()
        collection.documents.filter(document_id="bees").update(access_groups=["staff"])
        answer = search(SearchRequest(query="bees", collection="birds"), person("eve"))
        assert {result["document_id"] for result in answer["results"]} == {"owls"}

    def test_what_has_no_copy_yet_is_degraded_until_it_is_built(self, collection: Collection) -> None:
        MilvusOutbox.objects.all().delete()  # as before the mode was chosen
        answer = ask()
        assert (answer["degraded"], found_by(answer, "lexical")) == (["dense", "lexical"], {"bees", "staff"})
        assert "Would build 'birds'" in run("rebuild", "birds", "--dry-run")
        assert ask("how bees dance then")["degraded"] == ["dense", "lexical"]
        assert "Built 'birds': 3 chunks" in run("rebuild", "birds")
        assert ask()["degraded"] == []


class TestVerify:
    def test_it_finds_each_kind_of_difference(self, collection: Collection) -> None:
        deliver_now()
        assert "holds what PostgreSQL holds" in run("verify")
        with open_milvus() as store:
            (name,) = store.copies(collection.id).values()
            owls, bees, staff = Chunk.objects.order_by("document_id").values_list("id", flat=True)
            owl = store.rows(name, [owls])[owls]
            store.keep_only(name, [owl["document_row_id"]], [])
            collection.documents.filter(chunks=bees).update(metadata={"year": 1})
            stray = store.rows(name, [staff])[staff]
            store.client.upsert(name, [{**stray, "chunk_id": 10**9, "lexical": {1: 1.0}}])
            (found,) = feed.verify(store, collection)
        assert (found.chunks, found.missing, found.different, found.surplus) == (3, 1, 1, 1)
        with pytest.raises(CommandError, match="differs from PostgreSQL") as raised:
            run("verify", "birds")
        assert raised.value.returncode == 1
        run("rebuild", "birds")
        assert "holds what PostgreSQL holds" in run("verify", "birds")

    def test_an_unknown_collection_is_named(self, milvus: MilvusServer) -> None:
        with pytest.raises(CommandError, match="nowhere"):
            run("verify", "nowhere")


class TestFaults:
    @pytest.fixture
    def own_milvus(self, tmp_path: Path, settings: Any, db: None) -> Iterator[MilvusServer]:
        """One that a test may stop."""
        server = MilvusServer(tmp_path)
        server.start()
        settings.RAG_RETRIEVAL_PAUSE_S = 0
        try:
            with milvus_in_force(server, settings):
                yield server
        finally:
            server.stop()

    def test_a_milvus_that_dies_and_comes_back(self, own_milvus: MilvusServer, settings: Any) -> None:
        collection = Collection.objects.create(slug="birds")
        fill(collection, DOCUMENTS)
        deliver_now()
        settings.RAG_RETRIEVAL_TIMEOUT_S = settings.MILVUS_WRITE_TIMEOUT_S = 1
        retrieval.forget()
        own_milvus.stop()
        lost = ask()
        assert lost["degraded"] == ["dense", "lexical"]
        assert found_by(lost, "lexical") == {"bees", "staff"}
        report = check_retrieval()
        assert (report.state, "MILVUS" in report.detail.upper()) == (State.DEGRADED, True)
        remove(collection, "staff")
        assert deliver_now() == 0
        settings.RAG_RETRIEVAL_TIMEOUT_S = settings.MILVUS_WRITE_TIMEOUT_S = PATIENCE_S
        retrieval.forget()
        own_milvus.start()
        assert deliver_now() == 1
        back = ask()
        assert (back["degraded"], found_by(back, "dense")) == ([], {"owls", "bees"})
        report = check_retrieval()
        assert (report.state, "0 changes wait" in report.detail) == (State.OK, True)

    def test_health_tells_of_changes_that_wait_too_long(self, milvus: MilvusServer) -> None:
        outbox.note(7, [1, 2])
        assert check_retrieval().state is State.OK
        MilvusOutbox.objects.update(noted_at="2001-01-01T00:00Z")
        report = check_retrieval()
        assert (report.state, report.detail.count("2 changes wait")) == (State.DEGRADED, 1)
        assert outbox.backlog().oldest_s > 3600


class TestLite:
    @pytest.fixture
    def lite(self, tmp_path: Path, settings: Any, db: None) -> Iterator[Path]:
        settings.RAG_RETRIEVAL_MODE = "milvus"
        settings.MILVUS_URI, settings.MILVUS_TOKEN = str(tmp_path / "trial.db"), None
        retrieval.forget()
        yield tmp_path / "trial.db"
        retrieval.forget()

    def test_a_file_that_another_process_uses_is_refused_with_the_reason(self, lite: Path) -> None:
        hold = (
            "import sys; from milvus_lite.db import MilvusLite; db = MilvusLite(sys.argv[1]); "
            "print('held', flush=True); sys.stdin.read()"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", hold, str(lite)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        with other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            report = check_retrieval()
            other.kill()
        assert report.state is State.DEGRADED
        assert "one process alone" in report.detail

    def test_the_server_refuses_it(self, lite: Path) -> None:
        with pytest.raises(CommandError, match="one process alone, and the server has several"):
            call_command("prepare", stdout=StringIO(), stderr=StringIO())

    def test_a_name_that_is_neither_address_nor_file_is_refused(self, lite: Path, settings: Any) -> None:
        settings.MILVUS_URI = "milvus.example"
        assert [message.id for message in retrieval_mode_is_configured(None)] == ["rag.E003"]
        settings.MILVUS_URI = None
        assert [message.id for message in retrieval_mode_is_configured(None)] == ["rag.E001"]
