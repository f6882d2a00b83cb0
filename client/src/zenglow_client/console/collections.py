"""``zenglow collections``."""

from __future__ import annotations

import click

from zenglow_client.console import output
from zenglow_client.console.shared import as_json, server


@click.group()
def collections() -> None:
    """Documents that are searched together."""


@collections.command("list")
@as_json
@click.pass_context
def list_collections(context: click.Context, as_json: bool) -> None:
    """Those that you may touch."""
    found = list(server(context).collections())
    if as_json:
        output.as_json(found)
        return
    rows = [
        (one.slug, one.title, one.documents.get("indexed", 0), one.documents.get("failed", 0), one.created_at)
        for one in found
    ]
    empty = "There is no collection yet. `zenglow collections create NAME` makes one."
    output.table(("collection", "title", ">documents", ">failed", "made"), rows, empty=empty)


@collections.command("show")
@click.argument("slug")
@as_json
@click.pass_context
def show_collection(context: click.Context, slug: str, as_json: bool) -> None:
    """One collection with its settings."""
    found = server(context).collection(slug)
    if as_json:
        output.as_json(found)
        return
    plain = found.model_dump()
    plain["documents"] = " · ".join(f"{count} {state}" for state, count in found.documents.items())
    plain["default_access_groups"] = ", ".join(found.default_access_groups) or "everyone"
    output.table(("setting", "value"), plain.items(), empty="")


@collections.command("create")
@click.argument("slug")
@click.option("--title", metavar="TEXT")
@click.option("--description", metavar="TEXT")
@click.option("--language", "text_configuration", metavar="NAME", help="How words are stemmed: english, german, …")
@click.option("--code", "split_identifiers", is_flag=True, help="Also index the parts of names: for source code.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="Who may read it; without any, everyone.")
@as_json
@click.pass_context
def create_collection(
    context: click.Context,
    slug: str,
    title: str | None,
    description: str | None,
    text_configuration: str | None,
    split_identifiers: bool,
    groups: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a collection."""
    made = server(context).create_collection(
        slug,
        title=title,
        description=description,
        text_configuration=text_configuration,
        split_identifiers=split_identifiers or None,
        default_access_groups=groups or None,
    )
    if as_json:
        output.as_json(made)
    else:
        output.line(f"Made '{made.slug}'. `zenglow index PATH -c {made.slug}` puts documents into it.")


@collections.command("delete")
@click.argument("slug")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_context
def delete_collection(context: click.Context, slug: str, yes: bool) -> None:
    """Delete a collection with all its documents, for good."""
    client = server(context)
    count = sum(client.collection(slug).documents.values())
    if not yes:
        typed = click.prompt(f"This deletes {count} documents for good. Type '{slug}' to go on", err=True)
        if typed.strip() != slug:
            raise click.UsageError("That is another name; nothing was deleted.")
    client.delete_collection(slug, confirm=slug)
    output.line(f"Deleted '{slug}' with {count} documents.")
