"""What `manage.py doctor` looks at in retrieval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection
from django.db.models import Count
from django.utils import timezone

from models_registry.live import LiveModel, view
from models_registry.models import GLOBAL_SCOPE, Slot
from ops.contracts.diagnosis import Finding, Level, register_diagnosis
from ops.contracts.health import State
from ops.models import QueryPerformance
from rag.health import check_live_models
from rag.models import AnnConfig, AnnState, Chunk
from rag.pipeline.embed import EmbeddingError
from rag.pipeline.rankers import ranker_for
from rag.pipeline.retrieval import check_retrieval
from rag.spaces import load_embedder

LARGE_COLLECTION = 20_000
"""Chunks from which on an index pays (docs/performance/growth.md)."""
FEWEST_QUERIES = 20


def register_diagnoses() -> None:
    register_diagnosis("models", look_at_models)
    register_diagnosis("retrieval", look_at_retrieval)
    register_diagnosis("indexes", look_at_indexes)
    register_diagnosis("caches", look_at_caches, asks_database=False)


def look_at_models() -> Iterator[Finding]:
    """Whether each live embedder and ranker loads, here and now."""
    loaded = 0
    for live in view.all():
        if isinstance(live, LiveModel) and live.slot in _LOADERS:
            if fault := _LOADERS[live.slot](live):
                where = "" if live.scope == GLOBAL_SCOPE else f" --collection {live.scope}"
                yield Finding(Level.TROUBLE, fault, f"manage.py registry rollback {live.slot}{where}")
            else:
                loaded += 1
    if loaded:
        yield Finding(Level.OK, f"{loaded} live models load.")
    answer = check_live_models()
    if answer.state is State.FAILED:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py seed")


def _fault_of_embedder(live: LiveModel) -> str | None:
    try:
        load_embedder(live)
    except EmbeddingError as error:
        return str(error)
    return None


_LOADERS: dict[Slot, Callable[[LiveModel], str | None]] = {
    Slot.EMBEDDER: _fault_of_embedder,
    Slot.LTR: lambda live: ranker_for(live)[1],
}


def look_at_retrieval() -> Iterator[Finding]:
    answer = check_retrieval()
    if answer.state is not State.OK:
        yield Finding(Level.TROUBLE, answer.detail, "manage.py config check")


def look_at_indexes() -> Iterator[Finding]:
    """Large collections that are searched one vector after the other, and live indexes that are gone or not used."""
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
    live = AnnConfig.objects.filter(state=AnnState.LIVE).exclude(index_name="").values("collection__slug", "index_name")
    last_scans = _last_scans([config["index_name"] for config in live])
    since = timezone.now() - timedelta(hours=1)
    computed = Counter(
        QueryPerformance.objects.filter(occurred_at__gte=since, cache="none", mode="pgvector", status=200).values_list(
            "collection", flat=True
        )
    )
    for config in live:
        slug, name = config["collection__slug"], config["index_name"]
        command = f"manage.py ann build {slug} --activate"
        if name not in last_scans:
            yield Finding(Level.TROUBLE, f"The live vector index of {slug}, {name}, does not exist.", command)
        elif computed[slug] >= FEWEST_QUERIES and ((used := last_scans[name]) is None or used < since):
            what = f"{computed[slug]} queries of {slug} in the last hour, and none used its vector index {name}."
            yield Finding(Level.NOTE, what, "manage.py ann list")


def _last_scans(names: list[str]) -> dict[str, datetime | None]:
    """When each of these indexes was last used; none of those that don't exist."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelname, last_idx_scan FROM pg_stat_user_indexes WHERE indexrelname = ANY(%s)", [names]
        )
        return dict(cursor.fetchall())


def look_at_caches() -> Iterator[Finding]:
    ttl, depth = settings.RAG_FEATURE_CACHE_TTL_S, settings.RAG_CANDIDATE_DEPTH
    yield Finding(Level.OK, f"Features are cached for {ttl:g} s, over {depth} candidates of each retriever.")
    if ttl < 60:
        yield Finding(
            Level.NOTE,
            f"RAG_FEATURE_CACHE_TTL_S is {ttl:g}: features are soon computed again.",
            "manage.py config show",
        )
