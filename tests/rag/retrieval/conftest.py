"""Each retrieval mode on a server of its own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from rag.models import EmbeddingSpace
from rag.pipeline import retrieval
from tests.rag.ingest_service.support import make_space
from tests.rag.retrieval.milvus import MilvusServer
from tests.rag.retrieval.postgrest import KEY, PostgREST, running

FUNCTION = Path(django_settings.BASE_DIR) / "rag" / "sql" / "match_documents.sql"


@pytest.fixture
def space(db: None) -> EmbeddingSpace:
    """A space of eight dimensions without an embedder."""
    return make_space("of one test")


@pytest.fixture
def postgrest(db: None) -> Iterator[PostgREST]:
    """PostgREST on this test's database, with the function that ships."""
    with connection.cursor() as cursor:
        cursor.execute(FUNCTION.read_text(encoding="utf-8"))
    with running() as server:
        yield server


@pytest.fixture
def supabase(postgrest: PostgREST, settings: Any) -> Iterator[PostgREST]:
    """The mode ``supabase_rpc``, in force."""
    settings.RAG_RETRIEVAL_MODE = "supabase_rpc"
    settings.SUPABASE_URL, settings.SUPABASE_KEY = postgrest.url, KEY
    retrieval.forget()
    yield postgrest
    retrieval.forget()


@pytest.fixture(scope="session")
def shared_milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusServer]:
    """One Milvus for all tests of this process; each has collections of its own there."""
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    server.start()
    yield server
    server.stop()


@contextmanager
def milvus_in_force(server: MilvusServer, settings: Any) -> Iterator[MilvusServer]:
    settings.RAG_RETRIEVAL_MODE = "milvus"
    settings.MILVUS_URI, settings.MILVUS_TOKEN = server.uri, None
    settings.MILVUS_COLLECTION_PREFIX = f"t{uuid.uuid4().hex[:8]}"
    settings.MILVUS_DENSE_INDEX = "FLAT"
    retrieval.forget()
    yield server
    retrieval.forget()


@pytest.fixture
def milvus(shared_milvus: MilvusServer, db: None, settings: Any) -> Iterator[MilvusServer]:
    """The mode ``milvus``, in force."""
    with milvus_in_force(shared_milvus, settings) as server:
        yield server


@pytest.fixture(params=["pgvector", "supabase_rpc", "milvus"])
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode in turn, in force."""
    if request.param != "pgvector":
        request.getfixturevalue({"supabase_rpc": "supabase", "milvus": "milvus"}[request.param])
    return str(request.param)
