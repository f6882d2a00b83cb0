"""``manage.py prepare``: everything that must be up to date before the server starts, in one process."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections
from django.db.migrations.executor import MigrationExecutor

from models_registry.locks import session_lock
from models_registry.models import Deployment
from ops.contracts.health import State
from ops.performance.layout import adopt
from ops.vault import VaultReadError
from rag import supabase_key
from rag.checks import retrieval_mode_is_configured
from rag.milvus.store import configured
from rag.pipeline.retrieval import check_retrieval
from zenglow_site.first_collection import first_collection, is_new


class Command(BaseCommand):
    help = "Migrate, seed the registry, make the first administrator and collection, collect static files, as needed."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        # Several hosts may start at once on one database.
        with session_lock("prepare", on_wait=lambda: self._say("Waiting for another ZenGlow that is starting …")):
            executor = MigrationExecutor(connections[DEFAULT_DB_ALIAS])
            if executor.migration_plan(executor.loader.graph.leaf_nodes()):
                self._say("Migrating the database …")
                call_command("migrate", verbosity=0, skip_checks=True)
            if layout := adopt():
                self._say(f"The performance store uses TimescaleDB ({layout}).")
            if not Deployment.objects.exists():
                self._say("Seeding the registry …")
            call_command("seed", stdout=self.stdout, stderr=self.stderr, verbosity=0)
            call_command("first_admin", stdout=self.stdout)
            if is_new():
                first_collection()
        self._check_retrieval()
        self._collect_static_files()

    def _check_retrieval(self) -> None:
        """A mode that can't work as it is set up is refused; a server that is away now only makes answers worse."""
        for fault in retrieval_mode_is_configured(None):
            raise CommandError(f"{fault.msg} {fault.hint}", returncode=2)
        if settings.RAG_RETRIEVAL_MODE == "milvus" and configured(timeout_s=1).is_lite:
            raise CommandError(
                "Milvus Lite (MILVUS_URI is a file) serves one process alone, and the server has several. "
                "Set MILVUS_URI to the address of a Milvus server; try Milvus Lite with single commands, such as "
                "`manage.py search`.",
                returncode=2,
            )
        if settings.RAG_RETRIEVAL_MODE == "supabase_rpc":
            try:
                supabase_key.current()
            except VaultReadError as error:
                raise CommandError(str(error), returncode=2) from None
        report = check_retrieval()
        if report.state is not State.OK:
            self._say(f"Retrieval ({settings.RAG_RETRIEVAL_MODE}): {report.detail}")

    def _collect_static_files(self) -> None:
        """Skipped while no source file is new: hashing and compressing the same files again takes seconds."""
        note = Path(settings.STATIC_ROOT) / ".collected"
        sources = _fingerprint()
        if note.is_file() and note.read_text(encoding="ascii") == sources:
            return
        self._say("Collecting static files …")
        note.unlink(missing_ok=True)
        call_command("collectstatic", interactive=False, verbosity=0, skip_checks=True)
        note.write_text(sources, encoding="ascii")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()


def _fingerprint() -> str:
    """Changes with the place, size or time of any static source file."""
    digest = hashlib.sha256()
    for finder in get_finders():
        for name, storage in finder.list([]):
            status = Path(storage.path(name)).stat()
            digest.update(f"{storage.path(name)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()
