"""``manage.py memory on|off --collection NAME``: learn from judgements at query time, or not."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from rag import memory
from rag.models import Collection
from rag.pipeline.embed import EmbeddingError


class Command(BaseCommand):
    help = (
        "Let a collection remember what was judged relevant to similar queries, or stop that. Evaluations leave out "
        "each query's own judgements; searches don't, so measure a test collection with `evaluate`, not by searching."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("state", choices=("on", "off"))
        parser.add_argument("--collection", required=True, metavar="NAME")

    def handle(self, *args: Any, **options: Any) -> None:
        slug = options["collection"]
        collection = Collection.objects.filter(slug=slug).first()
        if collection is None:
            raise CommandError(f"There is no collection '{slug}'.", returncode=2)
        if options["state"] == "off":
            memory.turn_off(collection, SYSTEM)
            self.stdout.write(f"'{slug}' no longer uses its judgements.")
            return
        try:
            count = memory.turn_on(collection, SYSTEM)
        except (EmbeddingError, Problem) as error:
            raise CommandError(str(error), returncode=2) from error
        self.stdout.write(f"'{slug}' remembers the judgements of {count} queries.")
