"""``manage.py evaluate``: the pipeline beside the simple rankings, on judged collections."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from statistics import fmean
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.table import Table

from ops.contracts.problems import Problem
from ops.terminal import console, progress
from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import ROWS, SIMPLE_FUSIONS
from rag.evaluation.run import evaluate
from rag.models import EvaluationRun


class Command(BaseCommand):
    help = "Measure ranking quality on judged collections: BM25, dense, the simple fusions, and the full pipeline."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--collection", action="append", required=True, help="slug; may be given several times")
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")

    def handle(self, **options: Any) -> None:
        runs: list[EvaluationRun] = []
        with progress(self.stderr) as bar:
            for slug in options["collection"]:
                try:
                    runs.append(evaluate(slug, bar(slug)))
                except Problem as problem:
                    raise CommandError(str(problem), returncode=2) from problem
        if options["json"]:
            self.stdout.write(json.dumps([_as_dict(run) for run in runs], indent=2))
            return
        out = console(self.stdout)
        for run in runs:
            out.print(_title(run), soft_wrap=True)
            out.print(_table(run))
        if len(runs) > 1:
            out.print(_macro(runs), soft_wrap=True)


def _as_dict(run: EvaluationRun) -> dict[str, Any]:
    return {
        "id": run.id,
        "collection": run.collection,
        "queries": len(run.per_query["pipeline"]),
        "ranker": run.snapshot["ranker_label"],
        "weights": {"ltr": run.snapshot["ltr_weight"], "conceptual": run.snapshot["conceptual_weight"]},
        "in_sample": run.in_sample,
        "metrics": run.metrics,
    }


def _title(run: EvaluationRun) -> str:
    sample = "\nIn-sample: the ranker was trained on these judgements." if run.in_sample else ""
    weights = f"ltr {run.snapshot['ltr_weight']:.2f} / conceptual {run.snapshot['conceptual_weight']:.2f}"
    queries = len(run.per_query["pipeline"])
    return f"\n{run.collection} · {queries} queries · {run.snapshot['ranker_label']} · {weights}{sample}"


def _table(run: EvaluationRun) -> Table:
    table = Table()
    table.add_column("row")
    for name in MEASURES:
        table.add_column(name, justify="right")
    for row in ROWS:
        table.add_row(row, *(f"{run.metrics[row][name]:.4f}" for name in MEASURES))
    return table


def _macro(runs: list[EvaluationRun]) -> str:
    """Mean nDCG@10 over the collections, and the pipeline's ratio to the better simple fusion."""
    macro = {row: fmean(run.metrics[row]["ndcg@10"] for run in runs) for row in ROWS}
    best = max(SIMPLE_FUSIONS, key=lambda row: macro[row])
    rows = "  ".join(f"{row} {value:.4f}" for row, value in macro.items())
    sample = " (in-sample)" if any(run.in_sample for run in runs) else ""
    ratio = macro["pipeline"] / macro[best] if macro[best] else float("nan")
    return f"macro nDCG@10: {rows}\npipeline / {best}: {ratio:.3f}{sample}"
