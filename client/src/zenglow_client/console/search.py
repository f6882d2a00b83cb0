"""``zenglow search`` and ``zenglow feedback``."""

from __future__ import annotations

from typing import Any, cast

import click
from rich.text import Text

from zenglow_client import models
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, collection, filters, server

SHOWN_CHARACTERS = 400


@click.command()
@click.argument("query", nargs=-1, required=True)
@collection
@click.option("-k", "--top-k", type=click.IntRange(min=1), metavar="N", help="How many passages.")
@click.option("--offset", type=click.IntRange(min=0), metavar="N", help="Passages to skip.")
@filters
@click.option("--by-document", is_flag=True, help="Only the best passage of each document.")
@click.option("--explain", is_flag=True, help="Show what made each score.")
@click.option("--full", is_flag=True, help="Show whole passages.")
@as_json
@click.pass_context
def search(
    context: click.Context,
    query: tuple[str, ...],
    collection: str | None,
    top_k: int | None,
    offset: int | None,
    filters: dict[str, Any],
    by_document: bool,
    explain: bool,
    full: bool,
    as_json: bool,
) -> None:
    """Search a collection."""
    answer = server(context).search(
        " ".join(query),
        collection=collection,
        top_k=top_k,
        offset=offset,
        filters=filters or None,
        group_by="document" if by_document else None,
        explain=explain or None,
    )
    if as_json:
        output.as_json(answer)
        return
    if not answer.results:
        output.note(f"Nothing in '{answer.collection}' matches. `zenglow documents list` shows what is there.")
    for number, found in enumerate(answer.results, start=1 + (offset or 0)):
        _show(number, found, full)
    for part in answer.degraded:
        output.note(f"Without {part}, which the server could not use.")
    output.note(f"request {answer.request_id} · {answer.timings.pipeline_ms:.0f} ms · cache {answer.cache}")


@click.command()
@click.argument("request_id", type=click.UUID)
@click.argument("chunk_id", type=int)
@click.option("--vote", type=click.Choice(["up", "down"]), help="Whether it helped.")
@click.option("--grade", type=click.IntRange(0, 3), help="How relevant it is: 0 not at all, 3 entirely.")
@as_json
@click.pass_context
def feedback(
    context: click.Context, request_id: Any, chunk_id: int, vote: str | None, grade: int | None, as_json: bool
) -> None:
    """Say what a passage was worth that a search showed. Without a vote or grade it counts as a click."""
    if vote is not None and grade is not None:
        raise click.UsageError("Give --vote or --grade, not both.")
    kind, value = "click", None
    if vote is not None:
        kind, value = "vote", 1 if vote == "up" else -1
    elif grade is not None:
        kind, value = "judgement", grade
    given = server(context).give_feedback(request_id, chunk_id, cast(models.FeedbackKind, kind), value)
    if as_json:
        output.as_json(given)
    else:
        output.line(f"Noted: {given.kind} on {given.document_id}, shown at place {given.position + 1}.")


def _show(number: int, found: models.Result, full: bool) -> None:
    place = " › ".join(found.heading_path)
    page = f" · page {found.page}" if found.page is not None else ""
    output.line(f"{number:>2}. {found.title or found.document_id}", style="bold")
    output.line(f"    {found.document_id}{page}{' · ' + place if place else ''}", style="dim")
    text = " ".join(found.text.split())
    if not full and len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS].rsplit(" ", 1)[0] + " …"
    output.out.print(Text(f"    {output.printable(text)}"))
    score = (
        f"    {found.fused_score:.3f} = ltr {found.ltr_score_norm:.3f} ⊕ conceptual {found.conceptual_score_norm:.3f}"
    )
    output.line(f"{score} · passage {found.chunk_id}", style="dim")
    for name, part in sorted((found.contributions or {}).items(), key=lambda one: -abs(one[1])):
        output.line(f"      {part:+.3f} {name}", style="dim")
