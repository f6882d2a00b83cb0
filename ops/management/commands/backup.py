"""``manage.py backup create|restore``."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.filesize import decimal as readable_size

from ops.backup import BackupError, create, restore
from ops.backup.service import warnings_after


class Command(BaseCommand):
    help = "Write the database and all stored files to one checksummed file, or put them back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|restore")
        making = actions.add_parser("create", help="Write a backup. The file must not exist yet.")
        restoring = actions.add_parser("restore", help="Put a backup back. Restore only files that you trust.")
        for action in (making, restoring):
            action.add_argument("file", type=Path, help="The backup.")
        restoring.add_argument("--yes", action="store_true", help="Replace a database that is not empty.")

    def handle(self, *, action: str, file: Path, **options: Any) -> None:
        try:
            if action == "create":
                manifest = create(file, report=self._report)
                told = f"{file}: {readable_size(file.stat().st_size)}, the database and {len(manifest.files)} files."
            else:
                manifest = restore(file, replace=options["yes"], report=self._report)
                told = f"Restored the backup of {manifest.facts.get('created_at')}, with {len(manifest.files)} files."
        except BackupError as error:
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(told)
        if action == "restore":
            for warning in warnings_after(manifest):
                self.stdout.write(warning)

    def _report(self, line: str) -> None:
        self.stderr.write(f"  {line}", style_func=str)
