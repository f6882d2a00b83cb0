"""``manage.py import_beir DIR --collection NAME``: put a test collection in BEIR layout into a collection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from rag import memory
from rag.ingest.folders import BeirOffers
from rag.ingest.types import IngestError
from rag.management.indexing import IndexingCommand


class Command(IndexingCommand):
    help = "Index the documents of a BEIR folder under their own ids, and keep its queries and judgements."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("folder", type=Path, metavar="DIR", help="holds corpus.jsonl, queries.jsonl, qrels.tsv")
        parser.add_argument("--collection", required=True, metavar="NAME", help="slug; made where there is none")
        parser.add_argument("--sync", action="store_true", help="do the work in this process, without workers")

    def handle(self, **options: Any) -> None:
        try:
            with self.console.status("Checking the files …"):
                offers = BeirOffers(options["folder"])
        except IngestError as error:
            raise CommandError(str(error), returncode=2) from error
        collection = self.collection(options["collection"], create=True)
        offers.replace_judgements(collection)
        if collection.remembers_judgements:
            memory.refresh(collection)
        summary = offers.summary
        self.stdout.write(f"{summary.queries} queries · {summary.judgements} judgements")
        if summary.empty_documents:
            self.console.print(f"left out: {summary.empty_documents} documents without title and text")
        self.work(collection, offers, "command: import_beir", in_process=options["sync"], roots=offers.roots)
