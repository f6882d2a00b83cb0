"""``manage.py mcp``: the Model Context Protocol over stdin and stdout, for a program on this machine."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.contracts.principal import Principal, PrincipalKind, Scope
from rag.mcp.caller import Caller
from rag.mcp.tools import TOOLS
from rag.models import Collection

OPEN = (Scope.QUERY, Scope.FEEDBACK)


class Command(BaseCommand):
    help = "Speak the Model Context Protocol on stdin and stdout, to the program that starts this."

    def add_arguments(self, parser: CommandParser) -> None:
        scopes = sorted({tool.scope.value for tool in TOOLS.values()})
        parser.add_argument(
            "--scope",
            action="append",
            choices=scopes,
            help="a right of the program; repeatable. Default: query and feedback, so that it adds nothing",
        )
        parser.add_argument("--collection", action="append", metavar="SLUG", help="only this one; repeatable")
        parser.add_argument("--group", action="append", default=[], help="sees what this group may read; repeatable")

    def handle(self, **options: Any) -> None:
        collections = options["collection"]
        missing = set(collections or ()) - set(Collection.objects.values_list("slug", flat=True))
        if missing:
            raise CommandError(f"There is no collection '{sorted(missing)[0]}'.", returncode=2)
        principal = Principal(
            kind=PrincipalKind.SYSTEM,
            name="mcp",
            scopes=frozenset(map(Scope, options["scope"] or OPEN)),
            groups=frozenset(options["group"]),
            collections=None if collections is None else frozenset(collections),
        )
        asyncio.run(_serve(Caller(principal)))


async def _serve(caller: Caller) -> None:
    # Only the command itself needs it, and every command loads this module to list itself.
    from mcp.server.stdio import stdio_server

    from rag.mcp.server import server_for

    server = server_for(caller)
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
