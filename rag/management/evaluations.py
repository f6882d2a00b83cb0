"""How the commands show evaluations: tables for people, dictionaries for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from rag.evaluation.figures import names
from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import in_order
from rag.evaluation.significance import Comparison
from rag.evaluation.stored import QueryDelta, RunComparison, Side
from rag.models import EvaluationRun

IN_SAMPLE = "In-sample: the ranker was trained on these judgements."
REMEMBERS = "Not zero-shot: each query was ranked with the judgements of the others in memory."
QUERY_CHARACTERS = 90
QUERIES_SHOWN = 5


def as_dict(run: EvaluationRun) -> dict[str, Any]:
    """A run without its values by query."""
    return {
        "id": run.pk,
        "collection": run.collection,
        "label": run.label,
        "state": run.state,
        "queries": run.total,
        "dataset_sha256": run.dataset_sha256,
        "ranker": run.ranker,
        "embedder": run.embedder,
        "weights": weights_of(run),
        "in_sample": run.in_sample,
        "revision": run.revision,
        "created_at": run.created_at.isoformat(timespec="seconds"),
        "duration_s": run.duration_s,
        "timings": run.timings,
        "metrics": run.metrics,
    }


def weights_of(run: EvaluationRun) -> dict[str, float] | None:
    if not run.snapshot:
        return None
    return {"ltr": run.snapshot["ltr_weight"], "conceptual": run.snapshot["conceptual_weight"]}


def title(run: EvaluationRun) -> str:
    parts = [run.collection, f"{run.total} queries", run.ranker]
    weights = weights_of(run)
    if weights:
        parts.append(f"ltr {weights['ltr']:.2f} / conceptual {weights['conceptual']:.2f}")
    parts.append(f"evaluation {run.pk}")
    if run.label:
        parts.append(run.label)
    remembers = run.snapshot.get("remembers_judgements", False)
    notes = [note for note, holds in ((IN_SAMPLE, run.in_sample), (REMEMBERS, remembers)) if holds]
    return "\n".join(["", " · ".join(filter(None, parts)), *notes])


def metrics_table(run: EvaluationRun) -> Table:
    table = Table()
    table.add_column("row")
    for name in MEASURES:
        table.add_column(name, justify="right")
    for row, metrics in in_order(run.metrics).items():
        table.add_row(row, *(f"{metrics[name]:.4f}" for name in MEASURES))
    return table


def comparison_as_dict(comparison: RunComparison) -> dict[str, Any]:
    return {
        "a": _side(comparison.a),
        "b": _side(comparison.b),
        "in_sample": comparison.in_sample,
        "measures": {
            one.measure: {"a": one.a, "b": one.b, "relative": one.relative} | test_as_dict(one.test)
            for one in comparison.measures
        },
        "measure": comparison.measure,
        "queries": [
            {"query_id": query.query_id, "text": query.text, "a": query.a, "b": query.b, "delta": query.delta}
            for query in comparison.queries
        ],
    }


def test_as_dict(test: Comparison) -> dict[str, Any]:
    return {
        "difference": test.difference,
        "p_value": test.p_value,
        "wins": test.wins,
        "losses": test.losses,
        "ties": test.ties,
    }


def comparison_text(comparison: RunComparison) -> Text:
    """``b`` against ``a``, in a line."""
    main = comparison.main
    relative = "" if main.relative is None else f" ({main.relative:+.1%})"
    sample = " (in-sample)" if comparison.in_sample else ""
    a, b = names(comparison)
    return Text(
        f"{b} against {a}: {main.test.difference:+.4f} {comparison.measure}{relative}, p = {main.test.p_value:.4f}, "
        f"{main.test.wins} wins, {main.test.losses} losses, {main.test.ties} ties{sample}"
    )


def comparison_table(comparison: RunComparison) -> Table:
    a, b = names(comparison)
    table = Table()
    table.add_column("measure")
    for heading in (a, b, "difference", "relative", "p", "wins", "losses", "ties"):
        table.add_column(heading, justify="right")
    for one in comparison.measures:
        table.add_row(
            one.measure,
            f"{one.a:.4f}",
            f"{one.b:.4f}",
            f"{one.test.difference:+.4f}",
            "" if one.relative is None else f"{one.relative:+.1%}",
            f"{one.test.p_value:.4f}",
            str(one.test.wins),
            str(one.test.losses),
            str(one.test.ties),
        )
    return table


def extremes_table(comparison: RunComparison, shown: int = QUERIES_SHOWN) -> Table:
    """The queries that won most and lost most."""
    won = [query for query in comparison.queries[:shown] if query.delta > 0]
    lost = [query for query in comparison.queries[::-1][:shown] if query.delta < 0]
    table = Table(box=None, pad_edge=False)
    for heading in ("delta", "a", "b"):
        table.add_column(heading, justify="right")
    table.add_column("query")
    for query in (*won, *lost[::-1]):
        table.add_row(f"{query.delta:+.3f}", f"{query.a:.3f}", f"{query.b:.3f}", Text(_query(query)))
    return table


def _side(side: Side) -> Mapping[str, Any]:
    run = side.run
    return {"id": run.pk, "row": side.row, "label": run.label, "collection": run.collection, "ranker": run.ranker}


def _query(query: QueryDelta) -> str:
    text = f"{query.query_id}: {' '.join(query.text.split())}" if query.text else query.query_id
    return text if len(text) <= QUERY_CHARACTERS else text[: QUERY_CHARACTERS - 1] + "…"
