"""nDCG@10 by fusion weight: the registry's `Evaluator`.

Only fusion depends on the weights. So each judged query is embedded, retrieved and ranked once, and fused with every
weight of the curve. A measurement lives in Redis for a day: it is a look, not a record; `manage.py evaluate` keeps.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Sequence
from uuid import uuid4

import numpy as np
from django.core.cache import cache
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from models_registry.tuning import STEPS, Measurement, Shares
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import NotFound, Problem, Unavailable
from rag.evaluation.run import OnQuery, judged_set, was_trained_on
from rag.evaluation.significance import paired
from rag.models import Document, JudgedQuery
from rag.pipeline.fusion import fuse
from rag.pipeline.query import normalize_query
from rag.pipeline.search import Progress, score
from rag.pipeline.snapshot import resolve
from rag.pipeline.types import Float64Array, FusionWeights, Int64Array

logger = logging.getLogger(__name__)

KEPT_S = 24 * 3600
DEPTH = 10
GRID = [Shares(step / STEPS, 1 - step / STEPS) for step in range(STEPS + 1)]


class JudgedEvaluator:
    """Measures in a worker; whoever asks follows its progress."""

    def judged_collections(self, principal: Principal) -> Sequence[str]:
        slugs = JudgedQuery.objects.filter(judgements__isnull=False).values_list("collection__slug", flat=True)
        return sorted(slug for slug in set(slugs) if principal.may_touch(slug))

    def start(self, collection: str, current: Shares, proposed: Shares, principal: Principal) -> str:
        if not principal.may_touch(collection):
            raise NotFound(f"There is no collection '{collection}'.")
        total = len(judged_set(collection).queries)
        measurement_id = uuid4().hex
        from rag.tasks import measure_weights  # which imports this module

        try:
            _keep(measurement_id, Measurement(collection, 0, total, (current, proposed)))
            measure_weights.delay(measurement_id)
        except (RedisError, BrokerError, OSError) as error:
            raise Unavailable("Redis does not answer, so no worker can be asked. Try again in a moment.") from error
        return measurement_id

    def find(self, measurement_id: str, principal: Principal) -> Measurement:
        try:
            found = _read(measurement_id)
        except (RedisError, OSError) as error:
            raise Unavailable("Redis does not answer. Try again in a moment.") from error
        if found is None or not principal.may_touch(found.collection):
            raise NotFound("This measurement is over a day old, or never was. Measure again.")
        return found


def perform(measurement_id: str) -> None:
    """Make a measurement that was asked for; one that is over, or forgotten, is left alone."""
    asked = _read(measurement_id)
    if asked is None or asked.is_finished:
        return
    try:
        measured = measure(asked, lambda done, total: _keep(measurement_id, dataclasses.replace(asked, done=done)))
    except Problem as problem:
        measured = dataclasses.replace(asked, failure=str(problem))
    _keep(measurement_id, measured)


def measure(asked: Measurement, on_query: OnQuery = lambda done, total: None) -> Measurement:
    """The same with its figures. Raises `NotFound`, and `Unavailable` when a model can't be used."""
    judged = judged_set(asked.collection)
    resolved = resolve(asked.collection, SYSTEM)
    names = dict(Document.objects.filter(collection__slug=asked.collection).values_list("id", "document_id"))
    weights = [*GRID, *asked.shares]
    values = np.zeros((len(judged.queries), len(weights)))
    for row, (query_id, text) in enumerate(sorted(judged.queries.items())):
        progress = Progress(query_id)
        scored, _, _ = score(normalize_query(text), {}, resolved, progress, judged_as=query_id)
        for fault in progress.degraded.values():
            raise Unavailable(fault)
        relevant = judged.judgements[query_id]
        grades = np.array([relevant.get(names[document], 0) for document in scored.document_ids.tolist()], np.float64)
        ideal = ideal_dcg(relevant.values())
        for column, shares in enumerate(weights):
            order = fuse(scored.chunk_ids, scored.ltr_scores, 1.0 - scored.distances, FusionWeights(*shares)).order
            values[row, column] = ndcg(order, scored.document_ids, grades, ideal)
        on_query(row + 1, len(judged.queries))
    current, proposed = values[:, -2], values[:, -1]
    test = paired(proposed - current, np.full(len(values), 1 / len(values)))
    means = values.mean(axis=0)
    return dataclasses.replace(
        asked,
        done=len(values),
        total=len(values),
        curve=means[: len(GRID)].tolist(),
        current=float(means[-2]),
        proposed=float(means[-1]),
        p_value=test.p_value,
        wins=test.wins,
        losses=test.losses,
        in_sample=was_trained_on(resolved.ranker.version_id, asked.collection, judged.sha256),
    )


def ndcg(order: Int64Array, document_ids: Int64Array, grades: Float64Array, ideal: float) -> float:
    """nDCG@10 at document level, gain = grade, discount log2; a document counts at its best passage's place.

    order: positions, best first; document_ids, grades: one entry a candidate, shape (n,). 0 where ``ideal`` is 0.
    """
    seen: set[int] = set()
    total = 0.0
    for position in order.tolist():
        document = int(document_ids[position])
        if document in seen:
            continue
        seen.add(document)
        total += float(grades[position]) / math.log2(len(seen) + 1)
        if len(seen) == DEPTH:
            break
    return total / ideal if ideal else 0.0


def ideal_dcg(grades: Iterable[int]) -> float:
    """The DCG@10 of the best order there can be."""
    best = sorted((grade for grade in grades if grade > 0), reverse=True)[:DEPTH]
    return sum(grade / math.log2(place + 1) for place, grade in enumerate(best, start=1))


def _name(measurement_id: str) -> str:
    return f"weights-measurement:{measurement_id}"


def _keep(measurement_id: str, measurement: Measurement) -> None:
    cache.set(_name(measurement_id), dataclasses.asdict(measurement), KEPT_S)


def _read(measurement_id: str) -> Measurement | None:
    found = cache.get(_name(measurement_id)) if measurement_id.isalnum() else None
    if found is None:
        return None
    current, proposed = found.pop("shares")
    return Measurement(shares=(Shares(*current), Shares(*proposed)), **found)
