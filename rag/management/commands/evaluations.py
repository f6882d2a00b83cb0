"""``manage.py evaluations list|show|compare|delete``."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.table import Table

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from ops.terminal import console
from rag.evaluation.measures import MEASURES
from rag.evaluation.stored import DEFAULT_MEASURE, DEFAULT_ROW, compare_runs, delete, find, visible_evaluations
from rag.management.evaluations import (
    IN_SAMPLE,
    as_dict,
    comparison_as_dict,
    comparison_table,
    comparison_text,
    extremes_table,
    metrics_table,
    title,
)
from rag.models import EvaluationRun


class Command(BaseCommand):
    help = "List, show, compare or delete what `manage.py evaluate` measured."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|compare|delete")
        listed = actions.add_parser("list", help="The newest evaluations.")
        listed.add_argument("--collection", help="Only those of this collection.")
        listed.add_argument("--limit", type=int, default=20, help="How many.")
        listed.add_argument("--json", action="store_true", help="As JSON.")
        shown = actions.add_parser("show", help="One evaluation with everything that decided it.")
        shown.add_argument("id", type=int)
        shown.add_argument("--json", action="store_true", help="As JSON, with the values of each query.")
        compared = actions.add_parser("compare", help="How B differs from A, over the same queries.")
        compared.add_argument("a", type=int, metavar="A")
        compared.add_argument("b", type=int, metavar="B")
        compared.add_argument("--row-a", default=DEFAULT_ROW, help=f"Ranking of A to compare; default: {DEFAULT_ROW}.")
        compared.add_argument("--row-b", default=DEFAULT_ROW, help=f"Ranking of B to compare; default: {DEFAULT_ROW}.")
        compared.add_argument(
            "--measure", default=DEFAULT_MEASURE, choices=MEASURES, help="What queries are sorted by."
        )
        compared.add_argument("--json", action="store_true", help="As JSON, with every query.")
        deleted = actions.add_parser("delete", help="Forget evaluations.")
        deleted.add_argument("id", type=int, nargs="+")
        deleted.add_argument("--dry-run", action="store_true", help="Only say what would be deleted.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(**options)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem

    def _list(self, **options: Any) -> None:
        if options["limit"] < 1:
            raise CommandError("--limit must be at least 1.", returncode=2)
        runs = visible_evaluations(SYSTEM).defer("per_query")
        if options["collection"]:
            runs = runs.filter(collection=options["collection"])
        found = list(runs[: options["limit"]])
        if options["json"]:
            self.stdout.write(json.dumps([as_dict(run) for run in found], indent=2))
        elif not found:
            self.stdout.write("There is no evaluation yet. `manage.py evaluate --collection SLUG` makes one.")
        else:
            console(self.stdout).print(_table(found))

    def _show(self, **options: Any) -> None:
        run = find(options["id"], SYSTEM)
        if options["json"]:
            more = {"snapshot": run.snapshot, "per_query": run.per_query, "failure": run.failure}
            self.stdout.write(json.dumps(as_dict(run) | more, indent=2))
            return
        out = console(self.stdout)
        out.print(title(run), soft_wrap=True)
        if run.metrics:
            out.print(metrics_table(run))
        else:
            out.print(f"{run.state}, {run.done} of {run.total} queries. {run.failure}".strip(), soft_wrap=True)
        out.print(_facts(run))

    def _compare(self, **options: Any) -> None:
        comparison = compare_runs(
            find(options["a"], SYSTEM),
            find(options["b"], SYSTEM),
            row_a=options["row_a"],
            row_b=options["row_b"],
            measure=options["measure"],
        )
        if options["json"]:
            self.stdout.write(json.dumps(comparison_as_dict(comparison), indent=2, ensure_ascii=False))
            return
        out = console(self.stdout)
        out.print(comparison_table(comparison))
        out.print(comparison_text(comparison), soft_wrap=True)
        for side in (comparison.a, comparison.b):
            if side.run.in_sample:
                out.print(f"#{side.run.pk} {IN_SAMPLE}", soft_wrap=True)
        out.print(extremes_table(comparison))

    def _delete(self, **options: Any) -> None:
        runs = [find(run_id, SYSTEM) for run_id in dict.fromkeys(options["id"])]
        for run in runs:
            name = f"{run}{f' ({run.label})' if run.label else ''}"
            if options["dry_run"]:
                self.stdout.write(f"Would delete {name}.")
            else:
                delete(run, SYSTEM)
                self.stdout.write(f"Deleted {name}.")


def _table(runs: list[EvaluationRun]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "made", "collection", "queries", DEFAULT_MEASURE, "ranker", "label"):
        table.add_column(heading, justify="right" if heading in {"id", "queries", DEFAULT_MEASURE} else "left")
    for run in runs:
        value = f"{run.metrics[DEFAULT_ROW][DEFAULT_MEASURE]:.4f}" if DEFAULT_ROW in run.metrics else run.state
        table.add_row(
            str(run.pk),
            f"{run.created_at:%Y-%m-%d %H:%M}",
            run.collection,
            str(run.total),
            value + (" in-sample" if run.in_sample else ""),
            run.ranker,
            run.label,
        )
    return table


def _facts(run: EvaluationRun) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    duration = "" if run.duration_s is None else f"{run.duration_s:.1f} s"
    timings = ", ".join(f"{name} {of['p50_ms']:.1f}" for name, of in run.timings.items())
    for name, value in (
        ("embedder", run.embedder),
        ("judgements", run.dataset_sha256),
        ("revision", run.revision),
        ("took", duration),
        ("median ms", timings),
    ):
        if value:
            table.add_row(name, value)
    return table
