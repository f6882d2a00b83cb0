"""``manage.py registry``: what there is, what is live, and changing it."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.filesize import decimal as readable_size
from rich.markup import escape
from rich.table import Table

from models_registry import archives, artifacts, deployments, versions
from models_registry.discovery.refresh import refresh
from models_registry.management.refusals import refusals
from models_registry.models import GLOBAL_SCOPE, Artifact, Deployment, ModelVersion, Role, Slot, VersionStatus
from models_registry.scopes import readable_scope
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class Command(BaseCommand):
    help = "Show the models and what is live; promote a version, go back, move versions between installations."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="every model, its newest version and where it is live")
        show = actions.add_parser("show", help="one model with its versions and files")
        show.add_argument("name")
        promote = actions.add_parser("promote", help="put a version live")
        promote.add_argument("version", help="name@number, or a name for its newest version")
        promote.add_argument("--force", action="store_true", help="although what it needs is not all there")
        deactivate = actions.add_parser("deactivate", help="end a collection's own choice")
        rollback = actions.add_parser("rollback", help="put back what was live before the last change")
        for action in (deactivate, rollback):
            action.add_argument("slot", choices=Slot.values)
        history = actions.add_parser("history", help="what was live when, by whom and why")
        history.add_argument("--slot", choices=Slot.values)
        history.add_argument("--limit", type=int, default=50, help="rows to show, newest first")
        for action in (promote, rollback, history):
            action.add_argument("--collection", help="slug; without it the global choice")
        deactivate.add_argument("--collection", required=True, help="slug")
        for action in (promote, deactivate, rollback):
            action.add_argument("--reason", default="", help="why; kept in the history")
        export = actions.add_parser("export", help="write one version as a file that other installations import")
        export.add_argument("version", help="name@number, or a name for its newest version")
        export.add_argument(
            "file", type=Path, nargs="?", help="file or folder; without it, here, by the version's name"
        )
        take = actions.add_parser("import", help="register the version in a file; it becomes live nowhere")
        take.add_argument("file", type=Path)
        take.add_argument("--name", help="of the model, when it is not to keep its own")
        actions.add_parser("refresh", help="look for models at the sources that the settings name")
        collect = actions.add_parser("gc", help="delete files that no version needs")
        collect.add_argument("--dry-run", action="store_true", help="only list them")

    def handle(self, *, action: str, **options: Any) -> None:
        self.console = Console(file=cast(TextIO, self.stdout), highlight=False)
        with refusals():
            getattr(self, f"do_{action}")(options)

    def do_list(self, options: Mapping[str, Any]) -> None:
        table = _table("model", "kind", "provider", "newest", "live")
        for model in versions.overview():
            live = [f"@{place['number']} {place['scope']}{_role(place['role'])}" for place in model.live]
            newest = "none" if model.newest_number is None else f"@{model.newest_number}"
            table.add_row(*map(escape, (model.name, model.kind, model.provider, newest, "\n".join(live))))
        self.console.print(table)

    def do_show(self, options: Mapping[str, Any]) -> None:
        model = versions.overview().filter(name=options["name"]).first()
        if model is None:
            raise NotFound(f"There is no model '{options['name']}'. `manage.py registry list` shows what there is.")
        self.console.print(f"{escape(model.name)} · {model.kind} · {escape(model.provider)}")
        self.console.print(escape(model.description))
        live = {(place["number"], place["scope"]) for place in model.live}
        for version in ModelVersion.objects.filter(model=model):
            scopes = ", ".join(sorted(scope for number, scope in live if number == version.number))
            live_in = f" · live: {scopes}" if scopes else ""
            self.console.print(escape(f"\n{version} · {version.created_at:{TIME_FORMAT}}{live_in}"))
            if version.status != VersionStatus.READY:
                self.console.print(escape(f"{version.status}: {version.status_detail}"))
            facts = _facts_of(version)
            if facts.rows:
                self.console.print(facts)

    def do_promote(self, options: Mapping[str, Any]) -> None:
        version = versions.find_version(options["version"])
        row = deployments.activate(
            deployments.slot_of(version),
            version,
            _scope(options),
            by=SYSTEM,
            reason=options["reason"],
            force=options["force"],
        )
        self._say_live(row)

    def do_deactivate(self, options: Mapping[str, Any]) -> None:
        slot, scope = Slot(options["slot"]), _scope(options)
        deployments.deactivate(slot, scope, by=SYSTEM, reason=options["reason"])
        self.stdout.write(f"'{scope}' follows the global {slot.label} again.")

    def do_rollback(self, options: Mapping[str, Any]) -> None:
        slot, scope = Slot(options["slot"]), _scope(options)
        row = deployments.rollback(slot, scope, by=SYSTEM, reason=options["reason"])
        if row is None:
            self.stdout.write(f"'{scope}' follows the global {slot.label} again.")
        else:
            self._say_live(row)

    def do_history(self, options: Mapping[str, Any]) -> None:
        slot = Slot(options["slot"]) if options["slot"] else None
        scope = _scope(options) if options["collection"] else None
        table = _table("live", "scope", "slot", "what", "by", "reason")
        for row in deployments.history(slot, scope)[: max(options["limit"], 1)]:
            until = f"{row.ended_at:{TIME_FORMAT}}" if row.ended_at else "now"
            what = f"{row.model_version or row.weights}"
            period = f"{row.started_at:{TIME_FORMAT}}\nto {until}"
            table.add_row(*map(escape, (period, row.scope, row.slot + _role(row.role), what, row.by, row.reason)))
        self.console.print(table)

    def do_export(self, options: Mapping[str, Any]) -> None:
        version = versions.find_version(options["version"])
        target = options["file"] or Path()
        if target.is_dir():
            target = target / archives.file_name(version)
        try:
            # Whole or not at all: a half-written archive would look like one.
            with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}-", delete=False) as draft:
                try:
                    archives.export_version(version, draft, by=SYSTEM)
                    draft.close()
                    Path(draft.name).replace(target)
                finally:
                    Path(draft.name).unlink(missing_ok=True)
        except OSError as error:
            raise CommandError(f"{target} can't be written: {error.strerror}.", returncode=2) from error
        self.stdout.write(f"{version} is in {target} ({readable_size(target.stat().st_size)}).")

    def do_import(self, options: Mapping[str, Any]) -> None:
        try:
            with options["file"].open("rb") as source:
                version, is_new = archives.import_version(source, by=SYSTEM, name=options["name"])
        except OSError as error:
            raise CommandError(f"{options['file']} can't be read: {error.strerror}.", returncode=2) from error
        if is_new:
            self.stdout.write(f"{version} is registered. `manage.py registry promote {version}` puts it live.")
        else:
            self.stdout.write(f"{version} is here already: nothing was changed.")

    def do_refresh(self, options: Mapping[str, Any]) -> None:
        results = refresh(SYSTEM)
        if not results:
            self.stdout.write(
                "There is nowhere to look: set REGISTRY_DISCOVER_DIRS, REGISTRY_OLLAMA_URLS or REGISTRY_OPENAI_URLS."
            )
            return
        table = _table("source", "found", "added", "missing", "back", "fault")
        for one in results:
            changes = ["\n".join(labels) for labels in (one.added, one.missing, one.returned)]
            table.add_row(*map(escape, (one.source, str(one.found), *changes, one.error)))
        self.console.print(table)

    def do_gc(self, options: Mapping[str, Any]) -> None:
        found = artifacts.collect_garbage(dry_run=options["dry_run"])
        if not found:
            self.stdout.write("Every stored file is needed, or too new to tell.")
            return
        table = _table("sha256", "file", "size")
        for garbage in found:
            table.add_row(garbage.sha256[:12], escape(garbage.filename), readable_size(garbage.size_bytes))
        self.console.print(table)
        size = readable_size(sum(garbage.size_bytes for garbage in found))
        self.stdout.write(f"{len(found)} files, {size}: " + ("nothing deleted." if options["dry_run"] else "deleted."))

    def _say_live(self, row: Deployment) -> None:
        place = "everywhere" if row.scope == GLOBAL_SCOPE else f"in '{row.scope}'"
        self.stdout.write(f"{row.model_version or row.weights} is the {Slot(row.slot).label} {place}.")


def _scope(options: Mapping[str, Any]) -> str:
    return readable_scope(options["collection"], SYSTEM)


def _table(*headings: str) -> Table:
    """A table that folds what does not fit rather than hiding it."""
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _role(role: str) -> str:
    return "" if role == Role.STABLE else f" ({role})"


def _facts_of(version: ModelVersion) -> Table:
    table = _table("", "")
    table.show_header = False
    sizes = dict(Artifact.objects.filter(sha256__in=version.artifacts.values()).values_list("sha256", "size_bytes"))
    for role, sha256 in version.artifacts.items():
        size = readable_size(sizes[sha256]) if sha256 in sizes else "missing"
        table.add_row(escape(role), f"{sha256} · {size}")
    for title, fact in (
        ("training run", version.training_run_id),
        ("dataset sha256", version.dataset_sha256),
        ("code revision", version.code_revision),
        ("source", version.source),
    ):
        if fact:
            table.add_row(title, escape(str(fact)))
    for title, facts in (
        ("parameter", version.parameters),
        ("metric", version.metrics),
        ("origin", version.provenance),
    ):
        for name, value in facts.items():
            table.add_row(escape(f"{title} {name}"), escape(str(value)))
    return table
