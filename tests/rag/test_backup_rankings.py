"""A backup brings everything back that decides an answer: documents, vectors, postings, models, weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from models_registry.live import view
from models_registry.models import Deployment
from ops.backup import create, restore
from ops.contracts.principal import SYSTEM
from rag import spaces
from rag.collections import create_collection, delete_collection
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from rag.pipeline import rankers
from rag.pipeline.search import SearchRequest, search
from tests.conftest import seed_models

SAMPLE = Path(__file__).resolve().parents[2] / "rag" / "evaluation" / "sample"
DOCUMENTS = 40
QUERIES = 8


def rankings() -> list[list[tuple[str, float]]]:
    """What a fresh process would answer: nothing loaded, nothing cached."""
    spaces.forget()
    rankers.forget()
    view.expire()
    lines = (SAMPLE / "queries.jsonl").read_text(encoding="utf-8").splitlines()[:QUERIES]
    answers = [search(SearchRequest(json.loads(line)["text"], collection="kept"), SYSTEM) for line in lines]
    assert all(answer["degraded"] == [] for answer in answers)
    return [[(r["document_id"], r["fused_score"]) for r in answer["results"]] for answer in answers]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("empty_cache")
def test_a_restored_installation_ranks_as_before(exported_embedder: Path, tmp_path: Path, settings: Any) -> None:
    files = tmp_path / "files"
    files.mkdir()
    backend = "django.core.files.storage.FileSystemStorage"
    storages = settings.STORAGES | {"default": {"BACKEND": backend, "OPTIONS": {"location": files}}}
    with override_settings(STORAGES=storages, ZENGLOW_DATA_DIR=tmp_path, RAG_RESPONSE_CACHE_TTL_S=0):
        Deployment.objects.all().delete()
        seed_models(exported_embedder)
        rows = map(json.loads, (SAMPLE / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:DOCUMENTS])
        run = start_run(
            create_collection("kept", SYSTEM),
            [Offer(document_id=row["_id"], title=row["title"], content=row["text"]) for row in rows],
            SYSTEM,
            "test",
            enqueue=False,
        )
        while process_batch(run.id):
            pass
        before = rankings()
        assert all(before)

        create(tmp_path / "zenglow.backup", report=lambda line: None)
        delete_collection(Collection.objects.get(slug="kept"), SYSTEM)
        Deployment.objects.all().delete()
        shutil.rmtree(files)
        files.mkdir()
        restore(tmp_path / "zenglow.backup", replace=True, report=lambda line: None)

        assert rankings() == before
