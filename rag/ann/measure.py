"""How well a configuration finds: recall@10 against exact search, over queries that were really asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from django.db.models import F, Func
from django.utils import timezone

from models_registry.live import view
from models_registry.models import Slot
from models_registry.scopes import require_write
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict
from rag.ann.configs import require_index
from rag.models import AnnConfig, Chunk, DocEmbedding, JudgedQuery, QueryLog
from rag.pipeline.ann import EXACT
from rag.pipeline.database import hot_cursor
from rag.pipeline.dense import retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.snapshot import PipelineSnapshot, plan_of, resolve
from rag.pipeline.types import Float32Array, Int64Array
from rag.spaces import load_embedder, space_from, space_of

MEASURE = declare_action("ann.measure", "A vector index configuration was measured against exact search.")

QUERIES = 100
DEPTH = 10
_EXCERPT_WORDS = 12

OnQuery = Callable[[int, int], None]
"""Called after each query with how many are done, and of how many."""


def measure(
    config: AnnConfig, *, by: Principal, queries: int = QUERIES, on_query: OnQuery = lambda done, total: None
) -> AnnConfig:
    """Search as the configuration says and exactly, and keep the share of the ten nearest that it found.

    A search is what serving does, at the depth that serving asks for. Raises `Unprocessable` without an index, and
    `Conflict` when the collection has no vectors to find.
    """
    require_write(config.collection.slug, by)
    require_index(config)
    vectors, source = real_queries(config, queries)
    if not len(vectors):
        raise Conflict(f"'{config.collection}' has nothing to search in this space: index documents first.")
    snapshot = _snapshot(config)
    found: list[float] = []
    took_ms: list[float] = []
    for number, vector in enumerate(vectors, start=1):
        nearest, _ = _search(replace(snapshot, ann=EXACT), vector)
        by_config, search_ms = _search(snapshot, vector)
        found.append(recall(by_config[:DEPTH], nearest[:DEPTH]))
        took_ms.append(search_ms)
        on_query(number, len(vectors))
    config.recall_at_10 = float(np.mean(found))
    config.recall_queries, config.recall_source = len(found), source
    config.search_p50_ms, config.search_p95_ms = (float(value) for value in np.percentile(took_ms, (50, 95)))
    config.measured_at = timezone.now()
    config.save(
        update_fields=[
            *("recall_at_10", "recall_queries", "recall_source", "search_p50_ms", "search_p95_ms", "measured_at")
        ]
    )
    audit.record(by, MEASURE, str(config), {"recall_at_10": config.recall_at_10, "queries": source})
    return config


def recall(found: Int64Array, nearest: Int64Array) -> float:
    """The share of ``nearest`` that was found; 1 where there is nothing to find."""
    return float(np.isin(nearest, found).mean()) if len(nearest) else 1.0


def real_queries(config: AnnConfig, count: int) -> tuple[Float32Array, str]:
    """Query vectors, shape (at most count, dimension), and where they come from.

    What was asked last comes first, then judged queries, then the beginnings of passages. In a space whose embedder is
    not live nothing can be embedded: there vectors of passages stand in.
    """
    collection = config.collection
    embedder = view.model(Slot.EMBEDDER, collection.slug)
    # In an order of no meaning, but the same each time: configurations are compared by the same queries.
    found = DocEmbedding.objects.filter(collection=collection, space=config.space)
    found = found.order_by(Func(F("chunk_id"), function="hashint8"), "chunk_id")
    if space_of(embedder).id != config.space_id:
        rows = [np.asarray(row.embedding, dtype=np.float32) for row in found[:count]]
        return np.array(rows, dtype=np.float32).reshape(len(rows), -1), f"{len(rows)} vectors"
    texts: dict[str, str] = {}
    asked = QueryLog.objects.filter(collection=collection.slug).exclude(query="").order_by("-occurred_at")
    for text in asked.values_list("query", flat=True)[: 10 * count]:
        texts.setdefault(text, "log")
    for text in JudgedQuery.objects.filter(collection=collection).values_list("text", flat=True)[:count]:
        texts.setdefault(text, "judged")
    if len(texts) < count:
        sample = list(found.values_list("chunk_id", flat=True)[:count])
        for text in Chunk.objects.filter(id__in=sample).values_list("text", flat=True):
            texts.setdefault(" ".join(text.split()[:_EXCERPT_WORDS]), "passages")
    chosen = list(texts.items())[:count] if found.exists() else []
    sources = [source for _, source in chosen]
    counted = ", ".join(f"{sources.count(source)} {source}" for source in dict.fromkeys(sources))
    model = load_embedder(embedder)
    rows = [model.embed_query(text) for text, _ in chosen]
    return np.array(rows, dtype=np.float32), counted


def _snapshot(config: AnnConfig) -> PipelineSnapshot:
    """What serves the collection, but for the configuration, and for every document."""
    snapshot = resolve(config.collection.slug, SYSTEM).snapshot
    return replace(snapshot, space=space_from(config.space), ann=plan_of(config))


def _search(snapshot: PipelineSnapshot, vector: Float32Array) -> tuple[Int64Array, float]:
    with hot_cursor() as cursor:
        started = time.perf_counter()
        found = retrieve_dense(cursor, snapshot, Eligibility(None, {}), vector)
        return found, (time.perf_counter() - started) * 1000
