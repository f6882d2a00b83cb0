"""``manage.py seed``: the first models and weights of an installation."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console

from models_registry.management.refusals import refusals
from models_registry.seeding import SeedingError, seed


class Command(BaseCommand):
    help = "Register the models that ship and put them live where nothing is live yet. Safe to run again."

    def handle(self, **options: Any) -> None:
        progress = Console(stderr=True, highlight=False)
        try:
            with refusals():
                made = seed(lambda line: progress.print(f"  {line}", markup=False))
        except SeedingError as error:
            raise CommandError(str(error)) from error
        if made:
            self.stdout.write("Live now: " + ", ".join(f"{row.model_version or row.weights}" for row in made))
        elif options["verbosity"] > 0:
            self.stdout.write("Everything was seeded already.")
