"""``manage.py answers``: models to answer by, when to abstain, verdicts for training, and old conversations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

from django.core.management import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from models_registry.discovery.refresh import refresh
from ops.contracts.principal import SYSTEM
from ops.terminal import Bar, downloads
from rag.answers.backends.base import BackendError, BackendUnavailableError, PullProgress
from rag.answers.backends.ollama import OllamaBackend
from rag.answers.backends.registry import backend_of
from rag.answers.calibration import calibrate
from rag.chat import conversations
from rag.models import JudgedQuery


class Command(BaseCommand):
    help = "Download models, measure when to abstain, export verdicts on pairs of answers, delete old conversations."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        one = actions.add_parser("calibrate", help="measure RAG_ANSWER_THRESHOLD on judged collections")
        one.add_argument("--collections", required=True, metavar="A,B", help="two judged collections or more")
        one.add_argument("--queries", type=int, default=50, metavar="N", help="of each collection (50)")
        one.add_argument("--seed", type=int, default=1)
        one = actions.add_parser("pull", help="have Ollama download a model")
        one.add_argument("model", metavar="MODEL", help="as Ollama names it, such as mistral:7b")
        one = actions.add_parser("preferences", help="write every verdict as a line of JSON")
        one = actions.add_parser("purge", help="delete conversations past RAG_CONVERSATION_RETENTION_DAYS")
        one.add_argument("--dry-run", action="store_true", help="only say how many there are")

    def handle(self, *, action: str, **options: Any) -> None:
        match action:
            case "calibrate":
                self._calibrate(options["collections"], options["queries"], options["seed"])
            case "pull":
                self._pull(options["model"].removeprefix("ollama/"))
            case "preferences":
                for line in conversations.preference_lines():
                    self.stdout.write(json.dumps(line, ensure_ascii=False))
            case "purge":
                now = timezone.now()
                if options["dry_run"]:
                    self.stdout.write(f"{conversations.old(now).count()} conversations would be deleted")
                else:
                    self.stdout.write(f"{conversations.purge(now)} conversations deleted")

    def _pull(self, model: str) -> None:
        try:
            server = cast(OllamaBackend, backend_of(f"ollama/{model}"))
            with downloads(self.stderr) as bar:
                asyncio.run(_follow(server.pull(model), bar))
        except BackendError as error:
            raise CommandError(" ".join(str(error).split()), returncode=2) from error
        self.stdout.write(f"{model} is there. An agent uses it as ollama/{model}.")
        refresh(SYSTEM)

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


async def _follow(pull: AsyncGenerator[PullProgress, None], bar: Bar) -> None:
    """Show a download until it has ended. Raises `BackendError`, also when it ends without having succeeded."""
    shown: dict[str, Callable[[int, int], None]] = {}
    last = ""
    async with aclosing(pull) as steps:
        async for step in steps:
            last = step.status
            if step.total_bytes is not None:
                if last not in shown:
                    shown[last] = bar(last)
                shown[last](step.completed_bytes or 0, step.total_bytes)
    if last != "success":
        raise BackendUnavailableError(f"Ollama ended the download in the middle, after {last!r}. Try again.")
