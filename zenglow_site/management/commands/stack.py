"""``manage.py stack``: the embedded PostgreSQL and Redis by themselves."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from zenglow_site.embedded.errors import EmbeddedError
from zenglow_site.embedded.instance import InstanceLock
from zenglow_site.embedded.stack import EmbeddedStack


class Command(BaseCommand):
    help = "Start, stop or look at the embedded PostgreSQL and Redis."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["start", "stop", "status"])

    def handle(self, **options: Any) -> None:
        if not settings.ZENGLOW_EMBEDDED:
            raise CommandError("DATABASE_URL is set: this installation has no embedded stack.", returncode=2)
        stack = EmbeddedStack(settings.ZENGLOW_DATA_DIR)
        try:
            if options["action"] == "start":
                stack.ensure()
            elif options["action"] == "stop":
                self._refuse_under_a_server()
                stack.stop()
            for status in stack.status():
                self.stdout.write(
                    f"{status.name:<12} {status.state.value:<10} {status.process_id or '-':<8} {status.data}"
                )
        except EmbeddedError as error:
            raise CommandError(str(error), returncode=2) from error

    def _refuse_under_a_server(self) -> None:
        """A running server would start them again at once."""
        holder = InstanceLock(settings.ZENGLOW_DATA_DIR).holder()
        if holder is not None:
            raise CommandError(
                f"ZenGlow runs on these stores (process {holder.process_id}, at {holder.url}). "
                "Stop it there with Ctrl-C, which stops them too.",
                returncode=2,
            )
