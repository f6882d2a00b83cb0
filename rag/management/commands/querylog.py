"""``manage.py querylog list|erase|purge``: who asked how much, and how it is forgotten."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Count, Max, Min
from django.utils import timezone
from rich.table import Table

from ops.contracts.principal import SYSTEM
from ops.terminal import console
from rag import erasure, query_log
from rag.models import QueryLog


class Command(BaseCommand):
    help = "List who is in the query log, erase everything that one of them wrote, or purge what is too old."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        commands.add_parser("list", help="who asked how many searches, since when")
        erase = commands.add_parser(
            "erase", help="delete what one user, one key or everybody unknown wrote: searches, conversations, feedback"
        )
        who = erase.add_mutually_exclusive_group(required=True)
        who.add_argument("--user", metavar="NAME", help="a user's name")
        who.add_argument("--key", metavar="PREFIX", help="the public prefix of an API key")
        who.add_argument("--anonymous", action="store_true", help="what was asked without a key or an account")
        erase.add_argument("--dry-run", action="store_true", help="only say how much there is of each kind")
        commands.add_parser("purge", help="delete what is older than RAG_QUERY_LOG_RETENTION_DAYS, as the worker does")

    def handle(self, *args: Any, **options: Any) -> None:
        match options["command"]:
            case "list":
                self._list()
            case "erase":
                self._erase(_asker(options), dry_run=options["dry_run"])
            case "purge":
                self.stdout.write(f"{query_log.purge(timezone.now())} searches purged.")

    def _list(self) -> None:
        askers = (
            QueryLog.objects.values("asked_by")
            .annotate(searches=Count("pk"), first=Min("occurred_at"), last=Max("occurred_at"))
            .order_by("-searches", "asked_by")
        )
        if not askers:
            self.stdout.write("The query log is empty.")
            return
        table = Table("asked by", "searches", "first", "last")
        for one in askers:
            table.add_row(one["asked_by"], str(one["searches"]), f"{one['first']:%Y-%m-%d}", f"{one['last']:%Y-%m-%d}")
        console(self.stdout).print(table)

    def _erase(self, asked_by: str, *, dry_run: bool) -> None:
        if dry_run:
            self.stdout.write(f"{erasure.in_words(erasure.count(asked_by))} of {asked_by} would be erased.")
            return
        self.stdout.write(f"{erasure.in_words(erasure.erase(asked_by, SYSTEM))} of {asked_by} erased.")


def _asker(options: dict[str, Any]) -> str:
    if options["user"] is not None:
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"There is no user '{options['user']}'.", returncode=2)
        return f"user:{user.pk}"
    return f"key:{options['key']}" if options["key"] is not None else "anonymous"
