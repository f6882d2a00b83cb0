"""``zenglow documents``."""

from __future__ import annotations

from itertools import islice
from typing import cast

import click

from zenglow_client import models
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, collection, server


@click.group()
def documents() -> None:
    """What is in the collections."""


@documents.command("list")
@collection
@click.option("--state", type=click.Choice(["indexed", "failed", "deleted"]), help="Only those.")
@click.option("-q", "--part", metavar="TEXT", help="Part of the id, the title or the source.")
@click.option("-n", "--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@as_json
@click.pass_context
def list_documents(
    context: click.Context, collection: str | None, state: str | None, part: str | None, limit: int, as_json: bool
) -> None:
    """The documents that you may read, the last added first."""
    chosen = cast("models.DocumentState | None", state)
    found = list(islice(server(context).documents(collection=collection, state=chosen, q=part), limit + 1))
    listed = found[:limit]
    if as_json:
        output.as_json(listed)
        return
    rows = [(one.collection, one.document_id, one.title, one.state, one.chunk_count, one.failure) for one in listed]
    columns = ("collection", "document", "title", "state", ">passages", "failure")
    output.table(columns, rows, empty="There is no such document. `zenglow index PATH` adds some.")
    if len(found) > limit:
        output.note(f"There are more than {limit}; --limit shows them.")


@documents.command("show")
@click.argument("slug")
@click.argument("document_id")
@as_json
@click.pass_context
def show_document(context: click.Context, slug: str, document_id: str, as_json: bool) -> None:
    """A document with its text."""
    found = server(context).document(slug, document_id)
    if as_json:
        output.as_json(found)
        return
    about = found.model_dump(exclude={"text"})
    output.table(("", ""), [(name, value) for name, value in about.items() if value not in (None, "", [])], empty="")
    output.line("")
    output.line(found.text)


@documents.command("delete")
@click.argument("slug")
@click.argument("document_ids", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_context
def delete_documents(context: click.Context, slug: str, document_ids: tuple[str, ...], yes: bool) -> None:
    """Take documents out of the search at once. For a time they can be restored."""
    if not yes:
        click.confirm(f"Delete {len(document_ids)} of '{slug}'?", abort=True, err=True)
    client = server(context)
    for document_id in document_ids:
        client.delete_document(slug, document_id)
        output.line(f"Deleted {document_id}.")


@documents.command("restore")
@click.argument("slug")
@click.argument("document_id")
@as_json
@click.pass_context
def restore_document(context: click.Context, slug: str, document_id: str, as_json: bool) -> None:
    """Undo a deletion."""
    _told(server(context).restore_document(slug, document_id), as_json)


@documents.command("reindex")
@click.argument("slug")
@click.argument("document_id")
@as_json
@click.pass_context
def reindex_document(context: click.Context, slug: str, document_id: str, as_json: bool) -> None:
    """Read and index a document again, such as after a failure."""
    _told(server(context).reindex_document(slug, document_id), as_json)


def _told(run: models.IndexRun, as_json: bool) -> None:
    if as_json:
        output.as_json(run)
    else:
        output.line(f"Run {run.id} sees to it.")
