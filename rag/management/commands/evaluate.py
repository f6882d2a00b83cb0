"""``manage.py evaluate``: the pipeline beside the simple rankings, on judged collections."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from ops.terminal import console, progress
from rag.evaluation.report import report_html
from rag.evaluation.rows import ROWS, SIMPLE_FUSIONS
from rag.evaluation.run import evaluate, judged_set
from rag.evaluation.stored import RunComparison, best_simple_row, check_finished, check_same_dataset, compare_runs, find
from rag.management.evaluations import (
    as_dict,
    comparison_as_dict,
    comparison_text,
    metrics_table,
    title,
)
from rag.management.judged import compared, read_judged, show_figures
from rag.models import EvaluationRun
from rag.recipes import ltr


class Command(BaseCommand):
    help = "Measure ranking quality on judged collections: BM25, dense, the simple fusions, and the full pipeline."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--collection", action="append", required=True, help="slug; may be given several times")
        parser.add_argument("--label", default="", help="what this run is for, kept with it")
        parser.add_argument(
            "--baseline-run",
            action="append",
            type=int,
            default=[],
            metavar="ID",
            help="an earlier evaluation to compare with; one for each collection, in their order",
        )
        parser.add_argument("--json", action="store_true", help="print the figures as JSON")
        parser.add_argument("--html", type=Path, metavar="FILE", help="also write a report with plots, in one file")

        parser.add_argument(
            "--ablate",
            action="store_true",
            help="also measure the linear ranker without each of its parts, on collections that it never saw",
        )

    def handle(self, **options: Any) -> None:
        slugs: Sequence[str] = options["collection"]
        if options["ablate"] and len(set(slugs)) < 2:
            raise CommandError("--ablate compares on unseen collections: name at least two.", returncode=2)
        runs: list[EvaluationRun] = []
        try:
            baselines = _baselines(slugs, options["baseline_run"])
            if options["html"]:
                _check_writable(options["html"])
            with progress(self.stderr) as bar:
                for slug in slugs:
                    runs.append(evaluate(slug, bar(slug), label=options["label"]))  # noqa: PERF401
            comparisons = {run.pk: _comparisons(run, baselines.get(run.collection)) for run in runs}
            ablation = self._ablation(slugs) if options["ablate"] else {}
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem
        if options["html"]:
            report = report_html([(run, baselines.get(run.collection)) for run in runs])
            options["html"].write_text(report, encoding="utf-8")
            self.stderr.write(f"The report is in {options['html']}.")
        if options["json"]:
            figures: Any = [_figures(run, comparisons[run.pk]) for run in runs]
            if ablation:
                figures = {"runs": figures, "ablation": ltr.means(ablation)}
            self.stdout.write(json.dumps(figures, indent=2))
            return
        out = console(self.stdout)
        for run in runs:
            out.print(title(run), soft_wrap=True)
            out.print(metrics_table(run))
            for comparison in comparisons[run.pk]:
                out.print(comparison_text(comparison), soft_wrap=True)
        if len(runs) > 1:
            out.print(_macro(runs), soft_wrap=True)
        if ablation:
            show_figures(out, "Ablation: the linear ranker, trained on the other collections", ltr.means(ablation))
            for row in ablation.keys() - {ltr.FULL}:
                out.print(compared(ablation, row, ltr.FULL), soft_wrap=True)

    def _ablation(self, slugs: Sequence[str]) -> ltr.Scores:
        with progress(self.stderr) as bar:
            _, groups = read_judged(slugs, bar)
            bar("Training without each part")
            return ltr.ablation(groups)


def _check_writable(file: Path) -> None:
    """Refuse before all the work what couldn't be written after it."""
    try:
        with file.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise CommandError(f"{file} can't be written: {error.strerror}.", returncode=2) from error


def _baselines(slugs: Sequence[str], run_ids: Sequence[int]) -> Mapping[str, EvaluationRun]:
    """The earlier run of each collection; refused here what couldn't be compared after all the work."""
    if not run_ids:
        return {}
    if len(run_ids) != len(slugs):
        raise CommandError(
            f"Give one --baseline-run for each --collection: {len(run_ids)} for {len(slugs)} are given.", returncode=2
        )
    baselines = {}
    for slug, run_id in zip(slugs, run_ids, strict=True):
        baseline = find(run_id, SYSTEM)
        check_finished(baseline)
        check_same_dataset(baseline, "the new one", slug, judged_set(slug).sha256)
        baselines[slug] = baseline
    return baselines


def _comparisons(run: EvaluationRun, baseline: EvaluationRun | None) -> list[RunComparison]:
    """The pipeline against the better simple fusion of the same run and, where there is one, the earlier run's."""
    simple = best_simple_row(run)
    found = [compare_runs(run, run, row_a=simple)] if simple else []
    return [*found, compare_runs(baseline, run)] if baseline else found


def _figures(run: EvaluationRun, comparisons: Sequence[RunComparison]) -> dict[str, Any]:
    return as_dict(run) | {"comparisons": [_without_queries(comparison) for comparison in comparisons]}


def _without_queries(comparison: RunComparison) -> dict[str, Any]:
    return {name: value for name, value in comparison_as_dict(comparison).items() if name != "queries"}


def _macro(runs: list[EvaluationRun]) -> str:
    """Mean nDCG@10 over the collections, and the pipeline's ratio to the better simple fusion."""
    macro = {row: fmean(run.metrics[row]["ndcg@10"] for run in runs) for row in ROWS}
    best = max(SIMPLE_FUSIONS, key=lambda row: macro[row])
    rows = "  ".join(f"{row} {value:.4f}" for row, value in macro.items())
    sample = " (in-sample)" if any(run.in_sample for run in runs) else ""
    ratio = macro["pipeline"] / macro[best] if macro[best] else float("nan")
    return f"macro nDCG@10: {rows}\npipeline / {best}: {ratio:.3f}{sample}"
