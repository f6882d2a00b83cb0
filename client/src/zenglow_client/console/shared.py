"""What every command shares: the server that is asked, and ``--json``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from zenglow_client.client import ZenGlow
from zenglow_client.console import output
from zenglow_client.transport import Patience

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
collection = click.option("-c", "--collection", metavar="SLUG", help="The collection; else the server's default.")


def server(context: click.Context) -> ZenGlow:
    """The server of this call; closed when the call ends."""
    options = context.find_root().params
    patience = Patience(on_wait=lambda seconds, why: output.note(f"{why} Trying again in {seconds:.0f} s …"))
    client = ZenGlow(options["url"], timeout_s=options["timeout"], patience=patience)
    context.find_root().call_on_close(client.close)
    return client


def pairs(context: click.Context, parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` options as a mapping; a key that is given again has alternatives.

    A value that is a JSON number, true, false or null counts as that; in quotes it is a text.
    """
    import json

    found: dict[str, Any] = {}
    for pair in given:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is no key=value.", context, parameter)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if isinstance(value, dict | list):
            raise click.BadParameter(f"{key}: give one value; repeat the option for alternatives.", context, parameter)
        if key in found:
            found[key] = [*(found[key] if isinstance(found[key], list) else [found[key]]), value]
        else:
            found[key] = value
    return found


def filters(command: CommandT) -> CommandT:
    """The option ``--filter``."""
    return click.option(
        "-f", "--filter", "filters", multiple=True, metavar="KEY=VALUE", callback=pairs,
        help="Only documents with this metadata. Repeat a key for alternatives.",
    )(command)  # fmt: skip
