"""``manage.py feedback``: what people clicked, voted and judged, as judgements of a test collection."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from models_registry.management.refusals import refusals
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound
from rag import feedback
from rag.models import Collection


class Command(BaseCommand):
    help = "Make judgements of feedback, or export it in BEIR layout."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        judge = actions.add_parser("judge", help="make judged queries of it, for evaluate and train")
        judge.add_argument("collection")
        judge.add_argument("--dry-run", action="store_true", help="only say how many there would be")
        export = actions.add_parser("export", help="write corpus, queries and judgements in BEIR layout")
        export.add_argument("collection")
        export.add_argument("folder", type=Path)

    def handle(self, *, action: str, **options: Any) -> None:
        with refusals():
            collection = Collection.objects.filter(slug=options["collection"]).first()
            if collection is None:
                raise NotFound(f"There is no collection '{options['collection']}'.")
            if action == "judge":
                queries, judgements = feedback.judge(collection, SYSTEM, dry_run=options["dry_run"])
                verb = "would be made" if options["dry_run"] else "made"
            else:
                queries, judgements = feedback.export(collection, options["folder"])
                verb = f"written to {options['folder']}"
            self.stdout.write(f"{queries} queries with {judgements} judgements {verb}.")
