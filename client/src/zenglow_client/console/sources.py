"""``zenglow sources``."""

from __future__ import annotations

import click

from zenglow_client import models
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, server

FIRST_LOOK_S = 0.3
LONGEST_LOOK_S = 3.0


@click.group()
def sources() -> None:
    """Places that are looked at by a schedule."""


@sources.command("list")
@as_json
@click.pass_context
def list_sources(context: click.Context, as_json: bool) -> None:
    """All sources and how they stand."""
    found = list(server(context).sources())
    if as_json:
        output.as_json(found)
        return
    rows = [
        (
            *(one.name, one.collection, one.kind, _standing(one), one.finished_at),
            "paused" if one.is_paused else one.next_run_at,
        )
        for one in found
    ]
    columns = ("source", "collection", "kind", "state", "last look", "next look")
    output.table(columns, rows, empty="There is no source yet. Whoever runs the server makes one.")


@sources.command("show")
@click.argument("name")
@as_json
@click.pass_context
def show_source(context: click.Context, name: str, as_json: bool) -> None:
    """A source, with what could not be read."""
    found = server(context).source(name)
    if as_json:
        output.as_json(found)
        return
    about = found.model_dump(exclude={"faults", "preview", "tally"})
    output.table(("", ""), [(key, value) for key, value in about.items() if value not in (None, "", [], {})], empty="")
    for fault in found.faults:
        output.line(f"unreadable: {fault.path}: {fault.fault}")


@sources.command("sync")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--may-be-empty", is_flag=True, help="That nothing is left there is meant: remove its documents.")
@click.option("--no-wait", is_flag=True, help="Don't wait until it is done.")
@as_json
@click.pass_context
def sync_source(
    context: click.Context, name: str, dry_run: bool, may_be_empty: bool, no_wait: bool, as_json: bool
) -> int:
    """Look at a source at once."""
    client = server(context)
    before = client.sync_source(name, dry_run=dry_run, may_be_empty=may_be_empty)
    if no_wait:
        output.line(f"A worker looks at '{name}'.")
        return 0
    pause_s, found = FIRST_LOOK_S, before
    with output.err.status(f"Looking at {before.location} …"):
        while found.is_running or _seen(found, dry_run) == _seen(before, dry_run):
            client.patience.sleep(pause_s)
            pause_s = min(pause_s * 1.5, LONGEST_LOOK_S)
            found = client.source(name)
    return _report(found, dry_run=dry_run, as_json=as_json)


def _seen(source: models.SourceDetail, dry_run: bool) -> object:
    """What changes when a look has ended."""
    if dry_run:
        return source.preview and source.preview.at
    return source.finished_at


def _report(source: models.SourceDetail, *, dry_run: bool, as_json: bool) -> int:
    tally = source.preview.tally if dry_run and source.preview else source.tally
    error = source.preview.error if dry_run and source.preview else source.error
    if as_json:
        output.as_json(source)
    elif tally is not None and (dry_run or source.outcome != "failed"):
        for change in source.preview.changes if dry_run and source.preview else ():
            output.line(f"{change.state:9} {change.document_id}{': ' + change.reason if change.reason else ''}")
        would_be = "would be: " if dry_run else ""
        output.line(
            f"{would_be}{tally.found} new or changed · {tally.same} the same · {tally.gone} gone · "
            f"{tally.unreadable} unreadable"
        )
    if error:
        output.note(error)
    return 1 if error else 0


def _standing(source: models.Source) -> str:
    if source.is_running:
        return "is being looked at"
    return f"{source.outcome}: {source.error}" if source.error else source.outcome
