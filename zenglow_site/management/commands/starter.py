"""``manage.py starter``: a new installation's first collection, ZenGlow's own documentation and code."""

from __future__ import annotations

from typing import Any

from ops.contracts.principal import SYSTEM
from rag.ingest import service
from rag.ingest.folders import FolderOffers
from rag.management.indexing import IndexingCommand, worker_answers
from rag.models import IndexRun, RunState
from zenglow_site.environment import BASE_DIR
from zenglow_site.first_collection import first_collection, is_new

ORIGIN = "starter"
SOURCES = ("README.md", "docs", "ops", "models_registry", "rag", "voice", "zenglow_site")
ATTEMPTS_TO_REACH_A_WORKER = 30
"""Of about a second each: the worker starts together with this command."""


class Command(IndexingCommand):
    help = "Index ZenGlow's own documentation and code, unless something was indexed here before."

    def handle(self, **options: Any) -> None:
        run = self._unfinished() or (self._start() if is_new() else None)
        if run is None:
            return
        try:
            self.see_through(run, in_process=not self._worker_comes())
        except KeyboardInterrupt:
            return  # the run stays as it is: the workers go on with it, now or after the next start

    def _unfinished(self) -> IndexRun | None:
        run = IndexRun.objects.filter(origin=ORIGIN, state=RunState.RUNNING).first()
        if run is not None:
            service.enqueue_run(run.id)
            self.stdout.write("Indexing ZenGlow's own documentation and code goes on.")
        return run

    def _start(self) -> IndexRun:
        collection = first_collection()
        self.stdout.write("Indexing ZenGlow's own documentation and code; meanwhile, searches find what is done.")
        self.stdout.flush()
        offers = FolderOffers([BASE_DIR / source for source in SOURCES if (BASE_DIR / source).exists()])
        return service.start_run(collection, offers, SYSTEM, ORIGIN, roots=offers.roots)

    def _worker_comes(self) -> bool:
        return any(worker_answers() for _ in range(ATTEMPTS_TO_REACH_A_WORKER))
