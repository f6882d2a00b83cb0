"""``manage.py milvus verify|rebuild|deliver``."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.table import Table

from ops.contracts.problems import Problem
from ops.terminal import console, progress
from rag.milvus import feed, outbox, store
from rag.milvus.service import milvus
from rag.models import Collection

DRIFT_WORTH_A_REBUILD = 0.2


class Command(BaseCommand):
    help = "Compare Milvus with PostgreSQL, build its copy anew, or bring it up to date."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="verify|rebuild|deliver")
        verify = actions.add_parser("verify", help="Compare every chunk; exit code 1 when something differs.")
        rebuild = actions.add_parser("rebuild", help="Build copies anew beside the old ones, and switch.")
        rebuild.add_argument("--dry-run", action="store_true", help="Only say what would be built.")
        for parser_of in (verify, rebuild):
            parser_of.add_argument("collection", nargs="*", help="Collections; all when none is named.")
        actions.add_parser("deliver", help="Work off the changes that wait now.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        if not store.is_installed():
            raise CommandError(f"The Milvus client is missing. {store.INSTALL}", returncode=2)
        try:
            getattr(self, f"_{action}")(**options)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem

    def _verify(self, **options: Any) -> None:
        results: list[feed.Comparison] = []
        with milvus() as there, progress(self.stderr) as bar:
            for collection in self._collections(options["collection"]):
                results += feed.verify(there, collection, bar(f"Comparing {collection}"))
        table = Table("collection", "space", "chunks", "missing", "different", "surplus", box=None, pad_edge=False)
        for found in results:
            row = (found.space_id, found.chunks, found.missing, found.different, found.surplus)
            table.add_row(found.collection, *map(str, row))
        console(self.stdout).print(table)
        for found in results:
            if found.drift > DRIFT_WORTH_A_REBUILD:
                self.stdout.write(
                    f"The chunks of '{found.collection}' have another length than when its copy was built "
                    f"({found.drift:.0%}): rebuild it for exact BM25."
                )
        if not all(found.is_same for found in results):
            raise CommandError("Milvus differs from PostgreSQL: manage.py milvus rebuild", returncode=1)
        self.stdout.write("Milvus holds what PostgreSQL holds.")

    def _rebuild(self, **options: Any) -> None:
        collections = self._collections(options["collection"])
        if options["dry_run"]:
            for collection in collections:
                for space_id in feed.spaces_of(collection.id):
                    count = feed.count_vectors(collection.id, space_id)
                    self.stdout.write(f"Would build '{collection}' in space {space_id}: {count} chunks.")
            return
        with milvus() as there, progress(self.stderr) as bar:
            for collection in collections:
                count = feed.rebuild(there, collection, bar(f"Building {collection}"))
                self.stdout.write(f"Built '{collection}': {count} chunks.")

    def _deliver(self, **options: Any) -> None:
        with milvus() as there:
            taken = feed.deliver(there)
        self.stdout.write(f"Delivered {taken} changes; {outbox.backlog().rows} wait.")

    def _collections(self, slugs: list[str]) -> list[Collection]:
        found = list(Collection.objects.filter(slug__in=slugs) if slugs else Collection.objects.all())
        unknown = set(slugs) - {collection.slug for collection in found}
        if unknown:
            raise CommandError(f"There is no collection '{min(unknown)}'.", returncode=2)
        return found
