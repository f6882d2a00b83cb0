"""``manage.py index PATH… --collection NAME``: put files and folders into a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from ops.terminal import printable
from rag.ingest import service
from rag.ingest.folders import FolderOffers
from rag.ingest.types import IngestError
from rag.management.indexing import IndexingCommand, show_failures
from rag.models import Collection, ItemState


class Command(IndexingCommand):
    help = "Index files and folders. What is unchanged costs nothing; what has vanished from a folder is removed."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file or a folder")
        parser.add_argument("--collection", required=True, metavar="NAME", help="slug; made where there is none")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
        parser.add_argument("--sync", action="store_true", help="do the work in this process, without workers")
        parser.add_argument("--no-remove", action="store_true", help="keep documents whose files have vanished")

    def handle(self, **options: Any) -> None:
        try:
            offers = FolderOffers(options["paths"])
        except IngestError as error:
            raise CommandError(str(error), returncode=2) from error
        collection = self.collection(options["collection"], create=not options["dry_run"])
        roots = [] if options["no_remove"] else offers.roots
        try:
            if options["dry_run"]:
                self._show_diff(collection, offers, roots)
            else:
                self.work(
                    collection,
                    offers,
                    "command: index",
                    in_process=options["sync"],
                    roots=roots,
                    unread=offers.unread,
                )
        finally:
            for reason, count in offers.skipped.most_common():
                self.console.print(f"left out: {count} × {reason}", markup=False)

    def _show_diff(self, collection: Collection, offers: FolderOffers, roots: list[str]) -> None:
        with self.console.status("Comparing with what is indexed …"):
            found = service.diff(collection, offers, roots=roots, unread=offers.unread)
        for state, document_id, _ in found.changes:
            if state != ItemState.FAILED:
                self.stdout.write(f"{state.value:9} {printable(document_id)}")
        failures = [(document_id, reason) for state, document_id, reason in found.changes if state == ItemState.FAILED]
        show_failures(self.console, failures, len(failures))
        states = [state for state in ItemState if state != ItemState.PENDING]
        self.stdout.write("would be: " + " · ".join(f"{found.counts[state]} {state.value}" for state in states))
