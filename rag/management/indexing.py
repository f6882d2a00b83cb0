"""What the commands that index share: run, follow, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import IO, Any, cast

from celery import current_app
from django.core.management.base import BaseCommand, CommandError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from rag.collections import create_collection
from rag.ingest import runs, service
from rag.models import Collection, IndexItem, IndexRun, ItemState, RunState

POLL_INTERVAL_S = 0.3
WORKER_ANSWER_S = 1.0
"""How long workers may take to answer whether there is one."""

STALLED_S = 20.0
"""Without progress for so long, the command asks again whether a worker is there."""

MAX_FAILURES_SHOWN = 20
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


class IndexingCommand(BaseCommand):
    """A command that makes an index run. Results go to stdout, progress and failures to stderr."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Problems are one line and exit code 2."""
        try:
            return super().execute(*args, **options)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem

    @property
    def console(self) -> Console:
        """Where people look: progress bars if it is a terminal, plain lines if not."""
        # Django's wrapper would end each piece of a progress bar with a line break, in red.
        return Console(file=cast("IO[str]", self.stderr._out), highlight=False, soft_wrap=True)

    def collection(self, slug: str, *, create: bool) -> Collection:
        """The collection; made with the default settings where there is none (not saved without ``create``)."""
        found = Collection.objects.filter(slug=slug).first()
        if found is not None:
            return found
        if not create:
            return Collection(slug=slug)
        made = create_collection(slug, SYSTEM)
        self.console.print(f"Made the collection '{slug}'.")
        return made

    def work(
        self,
        collection: Collection,
        offers: Any,
        origin: str,
        *,
        in_process: bool,
        roots: Sequence[str],
        unread: Sequence[str] = (),
    ) -> IndexRun:
        """Start a run and see it through, here or with the workers. Raises `CommandError` when documents failed."""
        if not in_process and not worker_answers():
            self.console.print("No background worker answers, so this command does the work itself.")
            in_process = True
        with self.console.status("Comparing with what is indexed …"):
            run = service.start_run(
                collection, offers, SYSTEM, origin, roots=roots, unread=unread, enqueue=not in_process
            )
        try:
            self.see_through(run, in_process=in_process)
        except KeyboardInterrupt:
            runs.abandon_statement()
            runs.cancel_run(run.id)
            run.refresh_from_db()
            raise CommandError(
                f"Stopped after {run.done} of {run.total} documents. The same command goes on from there.",
                returncode=INTERRUPTED,
            ) from None
        return run

    def see_through(self, run: IndexRun, *, in_process: bool) -> None:
        """Show how a run goes on until it is over. Raises `CommandError` when documents failed."""
        self._follow(run, in_process=in_process)
        run.refresh_from_db()
        self._report(run)

    def _follow(self, run: IndexRun, *, in_process: bool) -> None:
        with _progress(self.console) as progress:
            bar = progress.add_task("Indexing", total=run.total, completed=run.done)
            last_done, last_progress = run.done, time.monotonic()
            while run.state == RunState.RUNNING:
                if in_process:
                    if not service.process_batch(run.id):
                        time.sleep(POLL_INTERVAL_S)  # a worker has the last items
                else:
                    time.sleep(POLL_INTERVAL_S)
                run.refresh_from_db()
                progress.update(bar, completed=run.done)
                if run.done > last_done:
                    last_done, last_progress = run.done, time.monotonic()
                elif not in_process and time.monotonic() - last_progress > STALLED_S:
                    last_progress = time.monotonic()
                    if not worker_answers():
                        self.console.print("The workers are gone, so this command goes on by itself.")
                        in_process = True

    def _report(self, run: IndexRun) -> None:
        counts = {state: getattr(run, state.value) for state in ItemState if state != ItemState.PENDING}
        self.stdout.write(" · ".join(f"{count} {state.value}" for state, count in counts.items()))
        if run.state == RunState.CANCELLED:
            raise CommandError(f"The run was cancelled after {run.done} of {run.total} documents.", returncode=1)
        if run.failed:
            failures = IndexItem.objects.filter(run=run, state=ItemState.FAILED).order_by("id")
            show_failures(self.console, failures.values_list("document_id", "reason"), run.failed)
            raise CommandError(f"{run.failed} of {run.total} documents failed; the others are indexed.", returncode=1)


def show_failures(console: Console, failures: Any, count: int) -> None:
    """The first failures with their reasons."""
    for document_id, reason in failures[:MAX_FAILURES_SHOWN]:
        # Most reasons begin with the name.
        told = reason.removeprefix(f"{document_id} ")
        console.print(f"failed: {document_id}: {told}", markup=False)
    if count > MAX_FAILURES_SHOWN:
        console.print(f"… and {count - MAX_FAILURES_SHOWN} more")


def worker_answers() -> bool:
    """Whether a background worker is there to take the work."""
    try:
        return bool(current_app.control.ping(timeout=WORKER_ANSWER_S, limit=1))
    except (BrokerError, RedisError, OSError):  # a Redis that goes while it is waited for is no fault to Celery
        return False


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )
