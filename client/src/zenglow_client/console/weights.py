"""``zenglow weights``."""

from __future__ import annotations

from itertools import islice

import click

from zenglow_client import models
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, server

of_collection = click.option("-c", "--collection", metavar="SLUG", help="A collection's own; else the global ones.")
with_reason = click.option("-m", "--reason", default="", metavar="TEXT", help="Why, for those who look later.")


@click.group()
def weights() -> None:
    """What the two scores are fused with."""


@weights.command("show")
@of_collection
@as_json
@click.pass_context
def show_weights(context: click.Context, collection: str | None, as_json: bool) -> None:
    """The live weights."""
    _show([server(context).weights(collection)], as_json, single=True)


@weights.command("set")
@click.argument("ltr", type=click.FloatRange(min=0))
@click.argument("conceptual", type=click.FloatRange(min=0))
@of_collection
@with_reason
@as_json
@click.pass_context
def set_weights(
    context: click.Context, ltr: float, conceptual: float, collection: str | None, reason: str, as_json: bool
) -> None:
    """Put new weights live. They are scaled to sum to 1."""
    _show([server(context).set_weights(ltr, conceptual, reason=reason, collection=collection)], as_json, single=True)


@weights.command("rollback")
@click.option("--to", "version", type=click.IntRange(min=1), metavar="VERSION", help="A version; else one step back.")
@of_collection
@with_reason
@as_json
@click.pass_context
def roll_back_weights(
    context: click.Context, version: int | None, collection: str | None, reason: str, as_json: bool
) -> None:
    """Put back what was live before the last change."""
    live = server(context).roll_back_weights(version, reason=reason, collection=collection)
    _show([live], as_json, single=True)


@weights.command("history")
@of_collection
@click.option("-n", "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@as_json
@click.pass_context
def weights_history(context: click.Context, collection: str | None, limit: int, as_json: bool) -> None:
    """What was live when, by whom and why; newest first."""
    _show(list(islice(server(context).weights_history(collection), limit)), as_json)


def _show(found: list[models.DeployedWeights], as_json: bool, *, single: bool = False) -> None:
    if as_json:
        output.as_json(found[0] if single else found)
        return
    rows = [
        (
            one.version,
            f"{one.normalized.ltr:.3f}",
            f"{one.normalized.conceptual:.3f}",
            "everywhere" if one.scope == "global" else one.scope,
            one.started_at,
            one.ended_at or "live",
            one.by,
            one.reason,
        )
        for one in found
    ]
    columns = (">version", ">ltr", ">conceptual", "scope", "since", "until", "by", "why")
    output.table(columns, rows, empty="Nothing was live yet.")
