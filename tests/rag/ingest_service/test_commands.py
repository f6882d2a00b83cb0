"""The commands that index: what they print, what they change, how they end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from rag.management import indexing
from rag.models import Collection, Document, DocumentState, IndexRun, JudgedQuery, Judgement, RunState
from tests.patience import PATIENCE_S
from tests.rag.ingest_service.support import assert_consistent
from tests.rag.ingest_service.test_workers import ROOT, wait_until, worker

pytestmark = pytest.mark.usefixtures("live_models")


def run_command(name: str, *arguments: Any, **options: Any) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    call_command(name, *map(str, arguments), stdout=out, stderr=err, **options)
    return out.getvalue(), err.getvalue()


def failing_command(name: str, *arguments: Any) -> tuple[CommandError, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command(name, *map(str, arguments), stdout=out, stderr=err)
    return caught.value, out.getvalue(), err.getvalue()


class TestIndex:
    def test_it_indexes_a_folder_and_then_only_what_changed(self, folder: Path) -> None:
        out, err = run_command("index", folder, "--collection", "docs", "--sync")
        assert out == "3 added · 0 changed · 0 removed · 0 unchanged · 0 failed\n"
        assert "Made the collection 'docs'." in err
        (folder / "deep" / "tax.txt").unlink()
        (folder / "bees.md").write_text("# Bees\n\nOther words.")
        out, _ = run_command("index", folder, "--collection", "docs", "--sync")
        assert out == "0 added · 1 changed · 1 removed · 1 unchanged · 0 failed\n"
        assert_consistent(Collection.objects.get())
        code = Document.objects.get(document_id="docs/code.py")
        assert (code.source, code.source_root, code.media_type) == ("docs/code.py", str(folder), "text/x-python")

    def test_it_shows_what_would_change_and_changes_nothing(self, folder: Path) -> None:
        out, _ = run_command("index", folder, "--collection", "docs", "--dry-run")
        assert out.splitlines()[-1] == "would be: 3 added · 0 changed · 0 removed · 0 unchanged · 0 failed"
        assert "added     docs/bees.md" in out
        assert not Collection.objects.exists()
        assert not IndexRun.objects.exists()

    def test_it_keeps_vanished_documents_when_told_to(self, folder: Path) -> None:
        run_command("index", folder, "--collection", "docs", "--sync")
        (folder / "code.py").unlink()
        out, _ = run_command("index", folder, "--collection", "docs", "--sync", "--no-remove")
        assert "0 removed" in out
        out, _ = run_command("index", folder, "--collection", "docs", "--sync")
        assert "1 removed" in out

    def test_it_says_what_it_left_out(self, folder: Path) -> None:
        (folder / "film.mp4").write_bytes(b"\0\0\0")
        _, err = run_command("index", folder, "--collection", "docs", "--sync")
        assert "left out: 1 × '.mp4' files cannot be read" in err

    def test_it_ends_with_1_when_a_document_failed(self, folder: Path) -> None:
        (folder / "broken.pdf").write_bytes(b"%PDF-1.4 no PDF")
        error, out, err = failing_command("index", folder, "--collection", "docs", "--sync")
        assert (error.returncode, str(error)) == (1, "1 of 4 documents failed; the others are indexed.")
        assert "3 added" in out
        assert "failed: docs/broken.pdf: " in err

    @pytest.mark.parametrize(
        ("paths", "collection", "message"),
        [
            (["nowhere"], "docs", "does not exist"),
            (["."], "Not A Slug", "slug"),
            (["."], "global", "means all collections"),
        ],
    )
    def test_it_refuses_bad_arguments_in_one_line(
        self, paths: Sequence[str], collection: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        error, _, _ = failing_command("index", *paths, "--collection", collection, "--sync")
        assert error.returncode == 2
        assert message in str(error)
        assert "\n" not in str(error)


class TestImportBeir:
    @pytest.fixture
    def beir(self, tmp_path: Path) -> Path:
        folder = tmp_path / "beir"
        folder.mkdir()
        documents = [
            {"_id": "1", "title": "Bees", "text": "Bees make honey."},
            {"_id": "2", "title": "", "text": "Tax is due."},
            {"_id": "3", "title": "A title alone", "text": ""},
            {"_id": "4", "title": "", "text": ""},
        ]
        (folder / "corpus.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
        (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "honey"}\n{"_id": "q2", "text": "tax"}\n')
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t2\nq2\t2\t1\nq2\t3\t0\n")
        return folder

    def test_it_imports_documents_queries_and_judgements(self, beir: Path) -> None:
        out, err = run_command("import_beir", beir, "--collection", "test", "--sync")
        assert out.splitlines() == [
            "2 queries · 3 judgements",
            "3 added · 0 changed · 0 removed · 0 unchanged · 0 failed",
        ]
        assert "left out: 1 documents without title and text" in err
        assert list(Document.objects.order_by("document_id").values_list("document_id", "title", "text")) == [
            ("1", "Bees", "Bees make honey."),
            ("2", "", "Tax is due."),
            ("3", "A title alone", "A title alone"),
        ]
        judged = Judgement.objects.values_list("query__query_id", "document_id", "grade")
        assert sorted(judged) == [("q1", "1", 2), ("q2", "2", 1), ("q2", "3", 0)]

    def test_it_replaces_judgements_and_documents(self, beir: Path) -> None:
        run_command("import_beir", beir, "--collection", "test", "--sync")
        (beir / "corpus.jsonl").write_text('{"_id": "1", "title": "Bees", "text": "Bees make honey."}\n')
        (beir / "queries.jsonl").write_text('{"_id": "q3", "text": "honey"}\n')
        (beir / "qrels.tsv").write_text("q3\t1\t1\n")
        out, _ = run_command("import_beir", beir, "--collection", "test", "--sync")
        assert out.splitlines()[1] == "0 added · 0 changed · 2 removed · 1 unchanged · 0 failed"
        assert list(JudgedQuery.objects.values_list("query_id", flat=True)) == ["q3"]

    def test_it_refuses_a_folder_that_is_none(self, tmp_path: Path) -> None:
        error, _, _ = failing_command("import_beir", tmp_path, "--collection", "test", "--sync")
        assert error.returncode == 2
        assert "corpus.jsonl" in str(error)
        assert not Collection.objects.exists()


class TestCollections:
    def test_it_makes_lists_and_deletes(self) -> None:
        run_command("collections", "create", "code", "--text-configuration", "simple", "--split-identifiers")
        rows = json.loads(run_command("collections", "list", "--json")[0])
        assert rows == [
            {
                "slug": "code",
                "title": "",
                "documents": 0,
                "text_configuration": "simple",
                "split_identifiers": True,
                "chunk_tokens": 220,
            }
        ]
        assert "code" in run_command("collections", "list")[0]
        run_command("collections", "delete", "code", "--yes")
        assert "no collection yet" in run_command("collections", "list")[0]

    def test_it_deletes_nothing_without_the_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run_command("collections", "create", "code")
        monkeypatch.setattr("builtins.input", lambda prompt: "yes")
        error, _, _ = failing_command("collections", "delete", "code")
        assert error.returncode == 2
        assert Collection.objects.filter(slug="code").exists()

    def test_it_refuses_what_is_not_there(self) -> None:
        assert failing_command("collections", "delete", "nothing", "--yes")[0].returncode == 2
        assert failing_command("collections", "create", "Bad Slug")[0].returncode == 2


def start_command(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "django", *arguments],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "ZENGLOW_TEST_DATABASE": connection.settings_dict["NAME"],
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def large_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "large"
    folder.mkdir()
    for number in range(64):
        (folder / f"{number:02}.txt").write_text(f"Document {number}. " + "Bees make honey in summer. " * 30)
    return folder


@pytest.mark.django_db(transaction=True)
class TestProcesses:
    def test_it_stops_cleanly_on_ctrl_c_and_goes_on_the_next_time(self, large_folder: Path) -> None:
        command = ["index", str(large_folder), "--collection", "large"]
        process = start_command(*command)
        wait_until(lambda: IndexRun.objects.filter(added__gte=8).exists(), process)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, err
        assert "No background worker answers" in err
        assert "The same command goes on from there." in err
        assert "Traceback" not in err
        first = IndexRun.objects.get()
        assert first.state == RunState.CANCELLED
        assert 8 <= first.done < 64
        assert_consistent(Collection.objects.get())

        again = start_command(*command)
        out, err = again.communicate(timeout=PATIENCE_S)
        assert again.returncode == 0, err
        assert out == f"{64 - first.done} added · 0 changed · 0 removed · {first.done} unchanged · 0 failed\n"

    def test_it_hands_the_work_to_a_worker(
        self, folder: Path, empty_queue: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with worker() as process:
            wait_until(indexing.worker_answers, process)
            monkeypatch.setattr(indexing, "WORKER_ANSWER_S", PATIENCE_S)  # however busy it is
            out, err = run_command("index", folder, "--collection", "docs")
        assert "3 added" in out
        assert "No background worker" not in err
        assert Document.objects.filter(state=DocumentState.INDEXED).count() == 3
