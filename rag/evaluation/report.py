"""The written report: one HTML file with its plots that needs nothing else, and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from django.conf import settings
from django.template.loader import render_to_string
from django.utils import timezone
from django.utils.safestring import mark_safe

from rag.evaluation.figures import ComparisonFigures, RunFigures, comparison_figures, figures_of
from rag.evaluation.rows import in_order
from rag.evaluation.stored import DEFAULT_MEASURE, compare_runs
from rag.models import EvaluationRun

STYLES = ("plots.css", "report.css")


@dataclass(frozen=True, slots=True)
class Section:
    """One run of the report."""

    run: EvaluationRun
    figures: RunFigures
    against_baseline: ComparisonFigures | None


def report_html(runs: Sequence[tuple[EvaluationRun, EvaluationRun | None]]) -> str:
    """The report of finished runs, each with the earlier run that it is compared with, if any.

    Its content security policy allows the one style sheet that is in it and nothing else: no script, no request.
    """
    sections = [
        Section(run, figures_of(run), comparison_figures(compare_runs(baseline, run)) if baseline else None)
        for run, baseline in runs
    ]
    style = "\n".join((settings.BASE_DIR / "static" / "css" / name).read_text(encoding="utf-8") for name in STYLES)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return render_to_string(
        "evaluations/report.html",
        {
            "sections": sections,
            "label": sections[0].run.label if sections else "",
            "means": _means([section.run for section in sections]) if len(sections) > 1 else [],
            "made_at": timezone.now(),
            "style": mark_safe(style),  # noqa: S308  (our own file)
            "policy": f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        },
    )


def _means(runs: Sequence[EvaluationRun]) -> list[tuple[str, list[float]]]:
    """Each row that all runs have, with its value in each and their mean."""
    rows = [row for row in in_order(runs[0].metrics) if all(row in run.metrics for run in runs)]
    values = {row: [run.metrics[row][DEFAULT_MEASURE] for run in runs] for row in rows}
    return [(row, [*of_row, fmean(of_row)]) for row, of_row in values.items()]
