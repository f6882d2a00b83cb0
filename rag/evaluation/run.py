"""Evaluate the live pipeline of a collection on its judged queries, beside the simple fusions it must beat."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from models_registry.models import ModelVersion
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound, Unavailable
from rag.evaluation.measures import Judgements, means, per_query
from rag.evaluation.rows import ROWS, documents_in_order, orders
from rag.models import Document, EvaluationRun, JudgedQuery, Judgement
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress, fuse_scores, score
from rag.pipeline.snapshot import resolve

OnQuery = Callable[[int, int], None]
"""Called with ``(done, total)`` after each query."""


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """A collection's judged queries. ``sha256`` identifies them whatever order they were imported in."""

    queries: dict[str, str]
    judgements: Judgements
    sha256: str


def judged_set(collection_slug: str) -> JudgedSet:
    """The queries with at least one judgement. Raises `NotFound` when there is none."""
    rows = Judgement.objects.filter(query__collection__slug=collection_slug)
    judgements: dict[str, dict[str, int]] = {}
    for query_id, document_id, grade in rows.values_list("query__query_id", "document_id", "grade"):
        judgements.setdefault(query_id, {})[document_id] = grade
    texts = JudgedQuery.objects.filter(collection__slug=collection_slug).values_list("query_id", "text")
    queries = {query_id: text for query_id, text in texts if query_id in judgements}
    if not queries:
        raise NotFound(
            f"The collection '{collection_slug}' has no judged queries. "
            "`manage.py import_beir` brings documents, queries and judgements."
        )
    return JudgedSet(queries, judgements, dataset_sha256(queries, judgements))


def dataset_sha256(queries: dict[str, str], judgements: Judgements) -> str:
    """sha256 of the canonical JSON of the judged queries' texts and grades."""
    content = {query_id: [text, judgements[query_id]] for query_id, text in queries.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def evaluate(collection_slug: str, on_query: OnQuery = lambda done, total: None) -> EvaluationRun:
    """Rank every judged query by every row, without caches, and store the result.

    Raises `NotFound`, and `Unavailable` when a model can't be used: the figures would be those of what stood in.
    """
    judged = judged_set(collection_slug)
    resolved = resolve(collection_slug, SYSTEM)
    names = dict(Document.objects.filter(collection__slug=collection_slug).values_list("id", "document_id"))
    rankings: dict[str, dict[str, list[str]]] = {row: {} for row in ROWS}
    for done, (query_id, text) in enumerate(sorted(judged.queries.items()), start=1):
        progress = Progress(query_id)
        scored, terms, candidates = score(normalize_query(text), {}, resolved, progress)
        for fault in progress.degraded.values():
            raise Unavailable(fault)
        fused = fuse_scores(resolved.snapshot, scored)
        for row, order in orders(terms, candidates, fused).items():
            rankings[row][query_id] = documents_in_order(order, candidates, names)
        on_query(done, len(judged.queries))
    values = {row: per_query(ranking, judged.judgements) for row, ranking in rankings.items()}
    return EvaluationRun.objects.create(
        collection=collection_slug,
        dataset_sha256=judged.sha256,
        snapshot=resolved.snapshot.as_dict(),
        metrics={row: means(of_row) for row, of_row in values.items()},
        per_query=values,
        in_sample=_was_trained_on(resolved.ranker.version_id, collection_slug, judged.sha256),
    )


def _was_trained_on(version_id: int, collection_slug: str, sha256: str) -> bool:
    """Whether a ranker knows these judgements, under whatever name, or others of a collection of that name."""
    provenance = ModelVersion.objects.values_list("provenance", flat=True).get(id=version_id)
    return any(
        dataset["sha256"] == sha256 or dataset["collection"] == collection_slug
        for dataset in provenance.get("datasets", [])
    )
