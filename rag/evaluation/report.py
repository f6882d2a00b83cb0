"""The written report: one HTML file with its plots that needs nothing else, and may load nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ops.written_report import written_report
from rag.evaluation.figures import ComparisonFigures, RunFigures, comparison_figures, figures_of
from rag.evaluation.rows import in_order
from rag.evaluation.stored import DEFAULT_MEASURE, compare_runs
from rag.models import EvaluationRun


@dataclass(frozen=True, slots=True)
class Section:
    """One run of the report."""

    run: EvaluationRun
    figures: RunFigures
    against_baseline: ComparisonFigures | None


def report_html(runs: Sequence[tuple[EvaluationRun, EvaluationRun | None]]) -> str:
    """The report of finished runs, each with the earlier run that it is compared with, if any."""
    sections = [
        Section(run, figures_of(run), comparison_figures(compare_runs(baseline, run)) if baseline else None)
        for run, baseline in runs
    ]
    return written_report(
        "evaluations/report.html",
        {
            "sections": sections,
            "label": sections[0].run.label if sections else "",
            "means": _means([section.run for section in sections]) if len(sections) > 1 else [],
        },
    )


def _means(runs: Sequence[EvaluationRun]) -> list[tuple[str, list[float]]]:
    """Each row that all runs have, with its value in each and their mean."""
    rows = [row for row in in_order(runs[0].metrics) if all(row in run.metrics for run in runs)]
    values = {row: [run.metrics[row][DEFAULT_MEASURE] for run in runs] for row in rows}
    return [(row, [*of_row, fmean(of_row)]) for row, of_row in values.items()]
