"""``zenglow ask``."""

from __future__ import annotations

from typing import Any

import click

from zenglow_client import models
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, collection, filters, server


@click.command()
@click.argument("question", nargs=-1, required=True)
@collection
@click.option("-a", "--agent", metavar="NAME", help="Who answers; else the server's default.")
@click.option("-k", "--top-k", type=click.IntRange(min=1), metavar="N", help="Passages to look at.")
@filters
@click.option("--max-tokens", type=click.IntRange(min=1), metavar="N", help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), metavar="T")
@as_json
@click.pass_context
def ask(
    context: click.Context,
    question: tuple[str, ...],
    collection: str | None,
    agent: str | None,
    top_k: int | None,
    filters: dict[str, Any],
    max_tokens: int | None,
    temperature: float | None,
    as_json: bool,
) -> None:
    """Have a question answered from the documents, with its sources."""
    given: dict[str, Any] = {
        "collection": collection,
        "agent": agent,
        "top_k": top_k,
        "filters": filters or None,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    client = server(context)
    if as_json:
        output.as_json(client.ask(" ".join(question), **given))
        return
    answer: models.AnswerText | None = None
    with client.ask_streaming(" ".join(question), **given) as pieces:
        for piece in pieces:
            if isinstance(piece, str):
                output.write(piece)
            else:
                answer = piece
    output.write("\n")
    if answer is not None:
        _show_sources(answer)


def _show_sources(answer: models.AnswerText) -> None:
    cited: dict[int, models.Citation] = {}
    for citation in answer.citations:
        cited.setdefault(citation.number, citation)
    if cited:
        output.line("")
    for number, citation in sorted(cited.items()):
        page = f", page {citation.page}" if citation.page is not None else ""
        title = f"{citation.title} · " if citation.title and citation.title != citation.document_id else ""
        output.line(f"[{number}] {title}{citation.document_id}{page}", style="dim")
    for sentence in answer.sentences:
        if not sentence.is_supported:
            output.note(f"Not supported by its source: {answer.text[sentence.start : sentence.end]}")
    for reason in answer.fallbacks:
        output.note(f"fell back: {reason}")
    output.note(f"{answer.model} · request {answer.request_id}")
