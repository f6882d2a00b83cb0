"""What pages, the admin and the written report show of an evaluation: plots beside the numbers they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ops.plots import Bar, Column, columns, deltas, number
from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import in_order
from rag.evaluation.stored import (
    DEFAULT_MEASURE,
    DEFAULT_ROW,
    QueryDelta,
    RunComparison,
    best_simple_row,
    compare_runs,
)
from rag.models import EvaluationRun

BINS = 10
QUERIES_SHOWN = 8
"""Most queries that are named on either side of a comparison."""


@dataclass(frozen=True, slots=True)
class RowMean:
    row: str
    value: float
    bar: Bar


@dataclass(frozen=True, slots=True)
class MeasurePlot:
    """The mean of one measure by row; every bar begins at 0 and would end at 1."""

    measure: str
    rows: list[RowMean]


@dataclass(frozen=True, slots=True)
class Spread:
    """How one row's values are spread over the queries: columns for each tenth from 0 to 1, and quartiles."""

    row: str
    columns: list[Column]
    counts: list[int]
    low: float
    median: float
    high: float


@dataclass(frozen=True, slots=True)
class DeltaPlot:
    """One bar a query, by falling delta; ``limit`` is the largest difference either way."""

    bars: list[Column]
    count: int
    limit: float


@dataclass(frozen=True, slots=True)
class ComparisonFigures:
    """A comparison with its plot, and the queries that won and lost most, each the largest first."""

    comparison: RunComparison
    name_a: str
    name_b: str
    plot: DeltaPlot
    won: Sequence[QueryDelta]
    lost: Sequence[QueryDelta]


@dataclass(frozen=True, slots=True)
class RunFigures:
    run: EvaluationRun
    measures: list[MeasurePlot]
    spreads: list[Spread]
    spread_measure: str
    against_simple: ComparisonFigures | None


def figures_of(run: EvaluationRun) -> RunFigures:
    """The plots of a finished run."""
    simple = best_simple_row(run)
    comparable = simple is not None and DEFAULT_ROW in run.per_query
    return RunFigures(
        run=run,
        measures=[_measure(run, name) for name in MEASURES],
        spreads=[_spread(run, row) for row in in_order(run.per_query)],
        spread_measure=DEFAULT_MEASURE,
        against_simple=comparison_figures(compare_runs(run, run, row_a=simple)) if comparable and simple else None,
    )


def comparison_figures(comparison: RunComparison) -> ComparisonFigures:
    """The plot of a comparison."""
    queries = comparison.queries
    limit = max((abs(query.delta) for query in queries), default=0.0)
    titles = [f"{query.query_id}: {query.delta:+.3f}" for query in queries]
    name_a, name_b = names(comparison)
    return ComparisonFigures(
        comparison=comparison,
        name_a=name_a,
        name_b=name_b,
        plot=DeltaPlot(deltas([query.delta for query in queries], limit, titles), len(queries), limit),
        won=[query for query in queries[:QUERIES_SHOWN] if query.delta > 0],
        lost=[query for query in queries[: -QUERIES_SHOWN - 1 : -1] if query.delta < 0],
    )


def names(comparison: RunComparison) -> tuple[str, str]:
    """How the two sides are told apart: by run, by row, or by both."""
    a, b = comparison.a, comparison.b
    if a.run.pk == b.run.pk:
        return a.row, b.row
    if a.row == b.row:
        return f"#{a.run.pk}", f"#{b.run.pk}"
    return f"#{a.run.pk} {a.row}", f"#{b.run.pk} {b.row}"


def _measure(run: EvaluationRun, name: str) -> MeasurePlot:
    return MeasurePlot(
        name,
        [
            RowMean(
                row, means[name], Bar("emphasis" if row == DEFAULT_ROW else "plain", "0", number(100 * means[name]))
            )
            for row, means in in_order(run.metrics).items()
        ],
    )


def _spread(run: EvaluationRun, row: str) -> Spread:
    values = np.array([of[DEFAULT_MEASURE] for of in run.per_query[row].values()])
    # A value on an edge belongs above it, which it may miss by a rounding error.
    places = np.minimum(np.floor(values * BINS + 1e-9).astype(int), BINS - 1)
    counts = np.bincount(places, minlength=BINS)
    low, median, high = np.percentile(values, [25, 50, 75]) if len(values) else (0.0, 0.0, 0.0)
    return Spread(
        row=row,
        columns=columns(counts.tolist(), _kind(row)),
        counts=counts.tolist(),
        low=float(low),
        median=float(median),
        high=float(high),
    )


def _kind(row: str) -> str:
    """The class of a row's bars: the pipeline stands out."""
    return "emphasis" if row == DEFAULT_ROW else "plain"
