"""``manage.py collections list|create|delete``."""

from __future__ import annotations

import json
from typing import IO, Any, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Count, Q
from rich.console import Console
from rich.table import Table

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from rag.collections import create_collection, delete_collection
from rag.models import Collection, DocumentState, TextConfiguration


class Command(BaseCommand):
    help = "List, make or delete collections."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|create|delete")
        show = actions.add_parser("list", help="List the collections with their settings.")
        show.add_argument("--json", action="store_true", help="As JSON.")
        create = actions.add_parser("create", help="Make a collection.")
        create.add_argument("slug")
        create.add_argument("--title", default="", help="What people see.")
        create.add_argument("--text-configuration", default="english", choices=TextConfiguration.values, metavar="NAME")
        create.add_argument("--split-identifiers", action="store_true", help="Index the parts of names: for code.")
        create.add_argument("--chunk-tokens", type=int, default=220, help="Longest chunk in tokens of the embedder.")
        create.add_argument("--chunk-overlap-tokens", type=int, default=32)
        create.add_argument(
            "--access-group", action="append", default=[], help="Group that may read by default; repeatable."
        )
        delete = actions.add_parser("delete", help="Delete a collection with all its documents.")
        delete.add_argument("slug")
        delete.add_argument("--yes", action="store_true", help="Do not ask.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(**options)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem

    def _list(self, **options: Any) -> None:
        kept = ~Q(documents__state=DocumentState.DELETED)
        collections = Collection.objects.annotate(document_count=Count("documents", filter=kept))
        rows = [
            {
                "slug": collection.slug,
                "title": collection.title,
                "documents": collection.document_count,
                "text_configuration": collection.text_configuration,
                "split_identifiers": collection.split_identifiers,
                "chunk_tokens": collection.chunk_tokens,
            }
            for collection in collections
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, ensure_ascii=False, indent=2))
        elif not rows:
            self.stdout.write("There is no collection yet. `manage.py index PATH --collection NAME` makes one.")
        else:
            table = Table(*rows[0], box=None, pad_edge=False)
            for row in rows:
                table.add_row(*map(str, row.values()))
            Console(file=cast("IO[str]", self.stdout._out), highlight=False, markup=False).print(table)

    def _create(self, **options: Any) -> None:
        create_collection(
            options["slug"],
            SYSTEM,
            title=options["title"],
            text_configuration=options["text_configuration"],
            split_identifiers=options["split_identifiers"],
            chunk_tokens=options["chunk_tokens"],
            chunk_overlap_tokens=options["chunk_overlap_tokens"],
            default_access_groups=options["access_group"],
        )
        self.stdout.write(f"Made the collection '{options['slug']}'.")

    def _delete(self, **options: Any) -> None:
        slug = options["slug"]
        collection = Collection.objects.filter(slug=slug).first()
        if collection is None:
            raise CommandError(f"There is no collection '{slug}'.", returncode=2)
        if not options["yes"]:
            count = collection.documents.count()
            answer = input(f"Delete '{slug}' with its {count} documents for good? Type its name: ")
            if answer.strip() != slug:
                raise CommandError("Nothing was deleted.", returncode=2)
        delete_collection(collection, SYSTEM)
        self.stdout.write(f"Deleted the collection '{slug}'.")
