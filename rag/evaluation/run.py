"""Evaluate the live pipeline of a collection on its judged queries, beside the simple fusions it must beat."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
from django.conf import settings
from django.utils import timezone

from models_registry.models import ModelVersion
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound, Unavailable
from ops.contracts.stage import recording
from rag.evaluation.measures import Judgements, means, per_query
from rag.evaluation.rows import ROWS, documents_in_order, orders
from rag.models import Document, EvaluationRun, EvaluationState, JudgedQuery, Judgement
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress, fuse_scores, score
from rag.pipeline.snapshot import resolve

OnQuery = Callable[[int, int], None]
"""Called with ``(done, total)`` after each query."""


@dataclass(frozen=True, slots=True)
class JudgedSet:
    """A collection's judged queries. ``sha256`` identifies them whatever order they were imported in.

    ``weights``: of the judgements that are not certain, by ``(query id, document id)``; training heeds them, measures
    don't.
    """

    queries: dict[str, str]
    judgements: Judgements
    sha256: str
    weights: Mapping[tuple[str, str], float] = field(default_factory=dict)


def judged_set(collection_slug: str) -> JudgedSet:
    """The queries with at least one judgement. Raises `NotFound` when there is none."""
    rows = Judgement.objects.filter(query__collection__slug=collection_slug)
    judgements: dict[str, dict[str, int]] = {}
    weights: dict[tuple[str, str], float] = {}
    for query_id, document_id, grade, weight in rows.values_list("query__query_id", "document_id", "grade", "weight"):
        judgements.setdefault(query_id, {})[document_id] = grade
        if weight != 1.0:
            weights[query_id, document_id] = weight
    texts = JudgedQuery.objects.filter(collection__slug=collection_slug).values_list("query_id", "text")
    queries = {query_id: text for query_id, text in texts if query_id in judgements}
    if not queries:
        raise NotFound(
            f"The collection '{collection_slug}' has no judged queries. "
            "`manage.py import_beir` brings documents, queries and judgements."
        )
    return JudgedSet(queries, judgements, dataset_sha256(queries, judgements, weights), weights)


def dataset_sha256(
    queries: dict[str, str], judgements: Judgements, weights: Mapping[tuple[str, str], float] = MappingProxyType({})
) -> str:
    """sha256 of the canonical JSON of the judged queries' texts and grades, and of the weights of uncertain ones."""
    content: dict[str, list[Any]] = {query_id: [text, judgements[query_id]] for query_id, text in queries.items()}
    for (query_id, document_id), weight in sorted(weights.items()):
        content[query_id].append([document_id, weight])
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Measured:
    """What one evaluation found out, named as the columns of `EvaluationRun`."""

    dataset_sha256: str
    total: int
    done: int
    snapshot: dict[str, Any]
    revision: str
    timings: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]
    per_query: dict[str, dict[str, dict[str, float]]]
    in_sample: bool

    def columns(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def evaluate(
    collection_slug: str,
    on_query: OnQuery = lambda done, total: None,
    *,
    label: str = "",
    started_by: str = SYSTEM.name,
) -> EvaluationRun:
    """Measure a collection now and store the result.

    Raises `NotFound`, and `Unavailable` when a model can't be used: the figures would be those of what stood in.
    """
    started_at = timezone.now()
    measured = measure(collection_slug, on_query)
    return EvaluationRun.objects.create(
        collection=collection_slug,
        label=label,
        started_by=started_by,
        state=EvaluationState.FINISHED,
        started_at=started_at,
        finished_at=timezone.now(),
        **measured.columns(),
    )


def measure(collection_slug: str, on_query: OnQuery = lambda done, total: None) -> Measured:
    """Rank every judged query by every row, without caches. Raises as `evaluate`."""
    judged = judged_set(collection_slug)
    resolved = resolve(collection_slug, SYSTEM)
    names = dict(Document.objects.filter(collection__slug=collection_slug).values_list("id", "document_id"))
    rankings: dict[str, dict[str, list[str]]] = {row: {} for row in ROWS}
    durations_ms: list[Mapping[str, float]] = []
    for done, (query_id, text) in enumerate(sorted(judged.queries.items()), start=1):
        progress = Progress(query_id)
        with recording() as recorded:
            scored, terms, candidates = score(normalize_query(text), {}, resolved, progress, judged_as=query_id)
            for fault in progress.degraded.values():
                raise Unavailable(fault)
            fused = fuse_scores(resolved.snapshot, scored)
        durations_ms.append(recorded.durations_ms)
        for row, order in orders(terms, candidates, fused).items():
            rankings[row][query_id] = documents_in_order(order, candidates, names)
        on_query(done, len(judged.queries))
    values = {row: per_query(ranking, judged.judgements) for row, ranking in rankings.items()}
    return Measured(
        dataset_sha256=judged.sha256,
        total=len(judged.queries),
        done=len(judged.queries),
        snapshot=resolved.snapshot.as_dict(),
        revision=code_revision(),
        timings=stage_timings(durations_ms),
        metrics={row: means(of_row) for row, of_row in values.items()},
        per_query=values,
        in_sample=was_trained_on(resolved.ranker.version_id, collection_slug, judged.sha256),
    )


def stage_timings(durations_ms: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of each stage over the queries, and of their sum, ``total``."""
    samples: dict[str, list[float]] = {}
    for of_query in durations_ms:
        for name, duration_ms in of_query.items():
            samples.setdefault(name, []).append(duration_ms)
        samples.setdefault("total", []).append(sum(of_query.values()))
    return {
        name: {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3)}
        for name, values in samples.items()
        for p50, p95 in [np.percentile(values, [50, 95])]
    }


@cache
def code_revision() -> str:
    """The git revision of the running code, ending in ``-dirty`` where files differ; empty outside a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(settings.BASE_DIR), "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()[:100]


def was_trained_on(version_id: int, collection_slug: str, sha256: str) -> bool:
    """Whether a ranker knows these judgements, under whatever name, or others of a collection of that name."""
    provenance = ModelVersion.objects.values_list("provenance", flat=True).get(id=version_id)
    return any(
        dataset["sha256"] == sha256 or dataset["collection"] == collection_slug
        for dataset in provenance.get("datasets", [])
    )
