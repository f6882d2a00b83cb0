"""What `manage.py doctor` looks at in retrieval."""

from __future__ import annotations

from collections.abc import Iterator

from django.conf import settings
from django.db.models import Count

from ops.contracts.diagnosis import Finding, Level, register_diagnosis
from ops.contracts.health import State
from rag.health import check_live_models
from rag.models import AnnConfig, AnnState, Chunk
from rag.pipeline.retrieval import check_retrieval

LARGE_COLLECTION = 20_000
"""Chunks from which on an index pays (docs/performance/growth.md)."""


def register_diagnoses() -> None:
    register_diagnosis("models", look_at_models)
    register_diagnosis("retrieval", look_at_retrieval)
    register_diagnosis("indexes", look_at_indexes)
    register_diagnosis("caches", look_at_caches)


def look_at_models() -> Iterator[Finding]:
    answer = check_live_models()
    if answer.state is State.OK:
        yield Finding(Level.OK, "The live models load.")
    else:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py registry rollback ltr")


def look_at_retrieval() -> Iterator[Finding]:
    answer = check_retrieval()
    if answer.state is not State.OK:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py config check")


def look_at_indexes() -> Iterator[Finding]:
    """Large collections that are searched one vector after the other."""
    indexed = AnnConfig.objects.filter(state=AnnState.LIVE).values("collection")
    large = (
        Chunk.objects.exclude(collection__in=indexed)
        .values("collection__slug")
        .annotate(n=Count("id"))
        .filter(n__gte=LARGE_COLLECTION)
    )
    for row in large:
        slug, n = row["collection__slug"], row["n"]
        yield Finding(Level.NOTE, f"{slug} has {n:,} chunks and no vector index.", f"manage.py ann build {slug}")


def look_at_caches() -> Iterator[Finding]:
    ttl, depth = settings.RAG_FEATURE_CACHE_TTL_S, settings.RAG_CANDIDATE_DEPTH
    yield Finding(Level.OK, f"Features are cached for {ttl:g} s, over {depth} candidates of each retriever.")
    if ttl < 60:
        yield Finding(
            Level.NOTE,
            f"RAG_FEATURE_CACHE_TTL_S is {ttl:g}: features are soon computed again.",
            "manage.py config show",
        )
