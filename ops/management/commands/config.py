"""``manage.py config check|show|docs``: the environment, as ``/config/*`` shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.configuration import doubts, environment, example_file, reference_page, shown_value
from ops.contracts.env import declared


class Command(BaseCommand):
    help = "Check or show the environment variables in force, or write their reference."
    requires_system_checks = ()
    requires_migrations_checks = False

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="check|show|docs")
        check = actions.add_parser("check", help="Say what is missing, contradictory, misspelt, deprecated or risky.")
        check.add_argument("--strict", action="store_true", help="Fail on warnings too.")
        show = actions.add_parser("show", help="List every variable with its value and origin; secrets are hidden.")
        show.add_argument("--json", action="store_true", help="As JSON.")
        docs = actions.add_parser("docs", help="Write docs/reference/configuration.md and .env.example.")
        docs.add_argument("--check", action="store_true", help="Write nothing; fail when a file is out of date.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if action == "check":
            self._check(strict=options["strict"])
        elif action == "show":
            self._show(as_json=options["json"])
        else:
            self._docs(only_check=options["check"])

    def _check(self, *, strict: bool) -> None:
        found = doubts(environment())
        for doubt in found:
            self.stdout.write(f"{doubt.level}: {doubt.message}")
        if not found:
            self.stdout.write("The environment is in order.")
        elif strict or any(doubt.level == "error" for doubt in found):
            raise CommandError(f"{len(found)} to look at.", returncode=1)

    def _show(self, *, as_json: bool) -> None:
        loaded = environment()
        rows = [
            {"name": variable.name, "value": shown_value(variable, loaded), "origin": loaded.origin(variable.name)}
            for variable in declared()
        ]
        if as_json:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            value = "not set" if row["value"] is None else row["value"]
            self.stdout.write(f"{row['name']:<{width}}  {value}  ({row['origin']})")

    def _docs(self, *, only_check: bool) -> None:
        base = Path(settings.BASE_DIR)
        pages = {
            base / "docs" / "reference" / "configuration.md": reference_page(),
            base / ".env.example": example_file(),
        }
        stale = [path for path, text in pages.items() if not path.is_file() or path.read_text("utf-8") != text]
        if only_check:
            if stale:
                names = ", ".join(str(path.relative_to(base)) for path in stale)
                raise CommandError(f"Out of date: {names}. Run manage.py config docs.", returncode=1)
            return
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pages[path], encoding="utf-8")
            self.stdout.write(f"Wrote {path.relative_to(base)}")
