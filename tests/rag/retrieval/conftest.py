"""Each retrieval mode on a server of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from rag.models import EmbeddingSpace
from rag.pipeline import retrieval
from tests.rag.ingest_service.support import make_space
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


@pytest.fixture(params=["pgvector", "supabase_rpc"])
def mode(request: pytest.FixtureRequest) -> str:
    """Each mode in turn, in force."""
    if request.param == "supabase_rpc":
        request.getfixturevalue("supabase")
    return str(request.param)
