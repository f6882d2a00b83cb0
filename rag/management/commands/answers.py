"""``manage.py answers``: what to set the threshold of abstention to, verdicts for training, and old conversations."""

from __future__ import annotations

import json
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from rag.answers.calibration import calibrate
from rag.chat import conversations
from rag.models import JudgedQuery


class Command(BaseCommand):
    help = "Measure when to abstain, export verdicts on pairs of answers, delete old conversations."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        one = actions.add_parser("calibrate", help="measure RAG_ANSWER_THRESHOLD on judged collections")
        one.add_argument("--collections", required=True, metavar="A,B", help="two judged collections or more")
        one.add_argument("--queries", type=int, default=50, metavar="N", help="of each collection (50)")
        one.add_argument("--seed", type=int, default=1)
        one = actions.add_parser("preferences", help="write every verdict as a line of JSON")
        one = actions.add_parser("purge", help="delete conversations past RAG_CONVERSATION_RETENTION_DAYS")
        one.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(self, *, action: str, **options: Any) -> None:
        match action:
            case "calibrate":
                self._calibrate(options["collections"], options["queries"], options["seed"])
            case "preferences":
                for line in conversations.preference_lines():
                    self.stdout.write(json.dumps(line, ensure_ascii=False))
            case "purge":
                now = timezone.now()
                if options["dry_run"]:
                    self.stdout.write(f"{conversations.old(now).count()} conversations would be deleted")
                else:
                    self.stdout.write(f"{conversations.purge(now)} conversations deleted")

    def _calibrate(self, names: str, queries: int, seed: int) -> None:
        collections = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
        judged = set(JudgedQuery.objects.values_list("collection__slug", flat=True))
        missing = [name for name in collections if name not in judged]
        if len(collections) < 2 or missing or queries < 1:
            fault = (
                f"{', '.join(missing)} has no judged queries." if missing else "Name two collections, and one query."
            )
            raise CommandError(fault, returncode=2)
        found = calibrate(collections, queries, seed, self.stderr.write)
        self.stdout.write(
            f"RAG_ANSWER_THRESHOLD={found.threshold:.2f}\n"
            f"  answers {found.answered:.0%} of {found.answerable} questions that their collection answers\n"
            f"  and {found.wrongly_answered:.0%} of {found.unanswerable} that it doesn't; AUC {found.auc:.3f}"
        )
