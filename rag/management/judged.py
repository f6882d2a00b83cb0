"""What `train` and `evaluate --ablate` share: judged collections as rankers learn from them, and figures as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from django.core.management.base import CommandError
from rich.console import Console
from rich.table import Table

from ops.contracts.problems import Problem
from rag.evaluation.significance import compare
from rag.recipes import ltr
from rag.recipes.judged import read_collection

MIN_QUERIES = 5
"""One for each fold."""

Figures = dict[str, dict[str, float]]
"""``{row: {collection: nDCG@10}}``."""


def read_judged(
    slugs: Sequence[str], bar: Callable[[str], Callable[[int, int], None]]
) -> tuple[list[ltr.JudgedCollection], list[ltr.Group]]:
    """The collections and their queries. Raises `CommandError` for one that is unknown or has too few judgements."""
    collections = []
    for slug in slugs:
        try:
            collections.append(read_collection(slug, bar(f"Reading {slug}")))
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem
    return collections, [group for collection in collections for group in _prepare(collection)]


def _prepare(collection: ltr.JudgedCollection) -> list[ltr.Group]:
    groups = ltr.prepare(collection)
    if len(groups) < MIN_QUERIES:
        raise CommandError(
            f"The collection '{collection.name}' has {len(groups)} queries with a relevant document; "
            f"training takes at least {MIN_QUERIES}.",
            returncode=2,
        )
    return groups


def show_figures(out: Console, title: str, means: Figures) -> None:
    """A table under its title, which the table's width would fold if it were the table's own."""
    table = Table()
    table.add_column("nDCG@10")
    for name in next(iter(means.values())):
        table.add_column(name, justify="right")
    for row, figures in means.items():
        table.add_row(row, *(f"{value:.4f}" for value in figures.values()))
    out.print(f"\n{title}", soft_wrap=True)
    out.print(table)


def compared(scores: ltr.Scores, row: str, baseline: str) -> str:
    """One line: relative difference of the macro means, significance, wins and losses by query."""
    found = compare(scores, row, baseline)
    base = ltr.means({baseline: scores[baseline]})[baseline]["macro"]
    share = found.difference / base if base else 0.0
    return (
        f"{row} against {baseline}: {found.difference:+.4f} ({share:+.1%}), p = {found.p_value:.4f}, "
        f"{found.wins} queries better, {found.losses} worse, {found.ties} equal"
    )
