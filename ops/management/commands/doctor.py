"""``manage.py doctor``: what is wrong, with its figure, and which command comes next."""

from __future__ import annotations

import json
import logging
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.table import Table
from rich.text import Text

from ops.contracts.diagnosis import Finding, Level
from ops.doctor import examine
from ops.terminal import console


class Command(BaseCommand):
    help = "Look at everything that usually goes wrong. Exit code 1 when something is."
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, **options: Any) -> None:
        found = self._found()
        if options["json"]:
            rows = [{"about": name, "level": one.level, "what": one.what, "next": one.next} for name, one in found]
            self.stdout.write(json.dumps(rows, indent=2))
        else:
            table = Table()
            for heading in ("", "about", "found", "next"):
                table.add_column(heading, overflow="fold")
            for name, one in found:
                sign = {Level.OK: "ok", Level.NOTE: "note", Level.TROUBLE: "TROUBLE"}[one.level]
                table.add_row(sign, name, Text(one.what), Text(one.next))
            console(self.stdout).print(table)
        if trouble := sum(one.level is Level.TROUBLE for _, one in found):
            raise CommandError(
                f"{trouble} of {len(found)} findings are trouble; docs/runbooks/ leads on.", returncode=1
            )
        self.stderr.write("Nothing is wrong that a program can see.")

    def _found(self) -> list[tuple[str, Finding]]:
        """What fails is a finding, and the log of it would bury the others."""
        logging.disable()
        try:
            return list(examine())
        finally:
            logging.disable(logging.NOTSET)
