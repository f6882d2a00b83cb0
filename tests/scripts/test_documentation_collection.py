"""The generator of known-item collections: what a section is, what can be asked for, and that it is reproducible."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from rag.ingest.beir import BeirFolder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "documentation_collection.py"
BODY = "The pool keeps connections open between requests, and hands each to one thread at a time only. " * 3

GUIDE = f"""
.. _pools:

Connection pools
================

{BODY}

Limiting the pool's size
------------------------

Set :setting:`POOL_SIZE`, or see `the manual <https://example.org>`_. {BODY}

.. code-block:: python

Overview
--------

{BODY}

Too short to find
-----------------

Nothing.
"""
OTHER = f"""
Caches
======

Overview
--------

{BODY}

Limiting the cache in bytes
---------------------------

:class:`~django.Cache` counts. {BODY}
"""


def archive(path: Path, pages: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, text in pages.items():
            member = tarfile.TarInfo(f"manual-1.0/{name}")
            member.size = len(text.encode())
            opened.addfile(member, io.BytesIO(text.encode()))
    return path


def make(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows(file: Path) -> dict[str, dict[str, str]]:
    return {row["_id"]: row for row in map(json.loads, file.read_text().splitlines())}


@pytest.fixture
def pages() -> dict[str, str]:
    return {
        "docs/topics/pools.txt": GUIDE,
        "docs/caches.rst": OTHER,
        "docs/releases/1.0.txt": GUIDE,
        "src/readme.rst": GUIDE,
    }


def test_sections_are_documents_without_their_headings_and_distinct_headings_are_queries(
    pages: dict[str, str], tmp_path: Path
) -> None:
    finished = make(archive(tmp_path / "manual.tar.gz", pages), tmp_path / "out")
    assert finished.returncode == 0, finished.stderr
    documents, queries = rows(tmp_path / "out/corpus.jsonl"), rows(tmp_path / "out/queries.jsonl")
    assert set(documents) == {"topics/pools#0", "topics/pools#1", "topics/pools#2", "caches#1", "caches#2"}
    assert documents["topics/pools#1"]["title"] == "Connection pools"
    assert documents["topics/pools#1"]["text"].startswith("Set POOL_SIZE, or see the manual. The pool")
    assert documents["caches#2"]["text"].startswith("django.Cache counts.")
    assert {row["text"] for row in queries.values()} == {"Limiting the pool's size", "Limiting the cache in bytes"}
    summary = BeirFolder(tmp_path / "out").validate()
    assert (summary.queries, summary.judgements) == (2, 2)


def test_the_same_archive_gives_the_same_collection_and_no_more_queries_than_asked_for(
    pages: dict[str, str], tmp_path: Path
) -> None:
    source = archive(tmp_path / "manual.tar.gz", pages)
    for name in ("one", "two"):
        make(source, tmp_path / name, "--queries", 1)
    for file in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert len(rows(tmp_path / "one/queries.jsonl")) == 1


def test_what_is_no_manual_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no archive")
    for source in (tmp_path / "text", archive(tmp_path / "empty.tar.gz", {"src/a.rst": GUIDE})):
        finished = make(source, tmp_path / "out")
        assert finished.returncode == 1
        assert len(finished.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()
