"""Evaluations that were made: who may see them, how two of them differ, and how one is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from django.db import transaction
from django.db.models import QuerySet

from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, InvalidRequest, NotFound, Unprocessable
from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import SIMPLE_FUSIONS
from rag.evaluation.significance import Comparison, paired
from rag.models import EvaluationRun, EvaluationState, JudgedQuery

DELETE = declare_action("evaluation.delete", "What was measured is gone; its means are in the details.")

DEFAULT_ROW = "pipeline"
DEFAULT_MEASURE = "ndcg@10"


def visible_evaluations(principal: Principal) -> QuerySet[EvaluationRun]:
    """The evaluations of the collections that a principal may touch, newest first."""
    runs = EvaluationRun.objects.all()
    return runs if principal.collections is None else runs.filter(collection__in=principal.collections)


def find(run_id: int, principal: Principal) -> EvaluationRun:
    """Raises `NotFound`, alike for what doesn't exist and for what isn't open to the principal."""
    run = visible_evaluations(principal).filter(pk=run_id).first()
    if run is None:
        raise NotFound(f"There is no evaluation {run_id}.")
    return run


def delete(run: EvaluationRun, principal: Principal) -> None:
    """Forget an evaluation; a worker that is at it stops at its next step."""
    with transaction.atomic():
        audit.record(
            principal,
            DELETE,
            str(run.pk),
            {"collection": run.collection, "label": run.label, "metrics": run.metrics},
        )
        run.delete()


@dataclass(frozen=True, slots=True)
class Side:
    """One ranking of the two that are compared: a row of a run."""

    run: EvaluationRun
    row: str


@dataclass(frozen=True, slots=True)
class QueryDelta:
    """One query's two values and how much the second is ahead of the first."""

    query_id: str
    text: str
    a: float
    b: float

    @property
    def delta(self) -> float:
        return self.b - self.a


@dataclass(frozen=True, slots=True)
class MeasureComparison:
    """A measure of both sides: means, and what the test of their difference, b − a, says."""

    measure: str
    a: float
    b: float
    test: Comparison

    @property
    def relative(self) -> float | None:
        """The difference as a share of a; ``None`` where a is 0."""
        return self.test.difference / self.a if self.a else None


@dataclass(frozen=True, slots=True)
class RunComparison:
    """How b differs from a, over the same queries. ``queries``: by falling delta of ``measure``, ties by id."""

    a: Side
    b: Side
    measure: str
    measures: Sequence[MeasureComparison]
    queries: Sequence[QueryDelta]

    @property
    def in_sample(self) -> bool:
        return self.a.run.in_sample or self.b.run.in_sample

    @property
    def main(self) -> MeasureComparison:
        return next(one for one in self.measures if one.measure == self.measure)


def compare_runs(
    a: EvaluationRun,
    b: EvaluationRun,
    *,
    row_a: str = DEFAULT_ROW,
    row_b: str = DEFAULT_ROW,
    measure: str = DEFAULT_MEASURE,
) -> RunComparison:
    """How b differs from a.

    Raises `Conflict` unless both are finished, `Unprocessable` when they were measured on different judgements, and
    `InvalidRequest` for an unknown row or measure.
    """
    check_finished(a)
    check_finished(b)
    check_same_dataset(a, b.pk, b.collection, b.dataset_sha256)
    values_a, values_b = _row(a, row_a), _row(b, row_b)
    if measure not in MEASURES:
        raise InvalidRequest(f"There is no measure '{measure}'. Known: {', '.join(MEASURES)}.")
    measures = []
    for name in MEASURES:
        deltas = np.array([values_b[query_id][name] - values_a[query_id][name] for query_id in sorted(values_a)])
        shares = np.full(len(deltas), 1 / max(len(deltas), 1))
        mean_a, mean_b = (fmean(of[name] for of in values.values()) for values in (values_a, values_b))
        measures.append(MeasureComparison(name, mean_a, mean_b, paired(deltas, shares)))
    texts = query_texts(b)
    queries = [
        QueryDelta(query_id, texts.get(query_id, ""), values_a[query_id][measure], values_b[query_id][measure])
        for query_id in sorted(values_a)
    ]
    queries.sort(key=lambda query: (-query.delta, query.query_id))
    return RunComparison(Side(a, row_a), Side(b, row_b), measure, measures, queries)


def check_finished(run: EvaluationRun) -> None:
    """Raise `Conflict` while a run has no figures."""
    if run.state != EvaluationState.FINISHED:
        raise Conflict(f"Evaluation {run.pk} is {run.state}: only finished ones can be compared.")


def check_same_dataset(run: EvaluationRun, other: object, collection: str, sha256: str) -> None:
    """Raise `Unprocessable` unless a run was measured on these judgements: other figures say nothing about it."""
    if run.dataset_sha256 != sha256:
        raise Unprocessable(
            f"Evaluations {run.pk} and {other} can't be compared: they were measured on different judgements "
            f"({run.collection}, sha256 {run.dataset_sha256[:12]}…, and {collection}, sha256 {sha256[:12]}…)."
        )


def best_simple_row(run: EvaluationRun, measure: str = DEFAULT_MEASURE) -> str | None:
    """The simple fusion that the pipeline must beat, by its mean."""
    rows = [row for row in SIMPLE_FUSIONS if row in run.metrics]
    return max(rows, key=lambda row: run.metrics[row][measure]) if rows else None


def query_texts(run: EvaluationRun) -> Mapping[str, str]:
    """The run's queries as they are in its collection now, by id: for reading, not for measuring."""
    queries = JudgedQuery.objects.filter(collection__slug=run.collection)
    return dict(queries.values_list("query_id", "text"))


def _row(run: EvaluationRun, row: str) -> Mapping[str, Mapping[str, float]]:
    if row not in run.per_query:
        raise InvalidRequest(f"Evaluation {run.pk} has no row '{row}'. It has {', '.join(run.per_query)}.")
    values: Mapping[str, Mapping[str, float]] = run.per_query[row]
    return values
