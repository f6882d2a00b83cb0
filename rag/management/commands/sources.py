"""``manage.py sources list|show|add|sync|pause|resume|remove``."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.table import Table

from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from ops.terminal import console, printable
from rag.ingest import service as ingest
from rag.models import Collection, RunState, Source, SourceKind
from rag.sources import service
from rag.sources.connectors import CONNECTORS

FAULTS_SHOWN = 20


class Command(BaseCommand):
    help = "Places that documents are fetched from again and again: folders, web sites, Git repositories, S3 buckets."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="list|show|add|sync|pause|resume|remove")
        actions.add_parser("list", help="All sources and how they stand.").add_argument("--json", action="store_true")
        show = actions.add_parser("show", help="One source, with what could not be read.")
        show.add_argument("name")
        add = actions.add_parser("add", help="Make a source.")
        add.add_argument("name", help="What its documents' ids begin with.")
        add.add_argument("kind", choices=SourceKind.values)
        add.add_argument("location", help="A folder's path, an address, or s3://bucket/prefix.")
        add.add_argument("--collection", required=True, metavar="SLUG")
        add.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=_option_help())
        add.add_argument("--secret", default="", metavar="NAME", help="A file in RAG_SOURCE_SECRETS_DIR.")
        add.add_argument("--group", action="append", default=[], metavar="NAME", help="Who may read it; repeatable.")
        add.add_argument("--every", type=int, default=60, metavar="MINUTES", help="0: only when asked.")
        sync = actions.add_parser("sync", help="Look at a source in this process.")
        sync.add_argument("name")
        sync.add_argument("--dry-run", action="store_true", help="Show what would change, and change nothing.")
        sync.add_argument("--may-be-empty", action="store_true", help="That nothing is left there is meant.")
        for name, text in (("pause", "Look at it no more for now."), ("resume", "Look at it again.")):
            actions.add_parser(name, help=text).add_argument("name")
        remove = actions.add_parser("remove", help="Forget a source, and remove its documents.")
        remove.add_argument("name")
        remove.add_argument("--keep-documents", action="store_true")
        remove.add_argument("--yes", action="store_true", help="Do not ask.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(**options)
        except Problem as problem:
            raise CommandError(str(problem), returncode=2) from problem

    def _list(self, **options: Any) -> None:
        sources = list(Source.objects.select_related("collection"))
        if options["json"]:
            self.stdout.write(json.dumps([_plain(source) for source in sources], ensure_ascii=False, indent=2))
        elif not sources:
            self.stdout.write("There is no source yet. `manage.py sources add NAME KIND LOCATION --collection SLUG`")
        else:
            table = Table("source", "collection", "kind", "state", "last look", "next look", box=None, pad_edge=False)
            for source in sources:
                table.add_row(
                    *(source.name, source.collection.slug, source.kind, _standing(source)),
                    *(_time(source.finished_at), "paused" if source.is_paused else _time(source.next_run_at)),
                )
            console(self.stdout).print(table)

    def _show(self, name: str, **options: Any) -> None:
        source = _find(name)
        for field, value in _plain(source).items():
            self.stdout.write(f"{field + ':':18} {printable(str(value))}")
        faults = source.items.exclude(fault="").order_by("path")
        for item in faults[:FAULTS_SHOWN]:
            self.stdout.write(f"unreadable: {printable(item.path)}: {printable(item.fault)}")

    def _add(self, **options: Any) -> None:
        collection = Collection.objects.filter(slug=options["collection"]).first()
        if collection is None:
            raise CommandError(f"There is no collection '{options['collection']}'.", returncode=2)
        made = service.create(
            options["name"],
            collection,
            options["kind"],
            SYSTEM,
            location=options["location"],
            options=_options(options["option"]),
            secret=options["secret"],
            access_groups=options["group"],
            interval_minutes=options["every"],
        )
        when = "as soon as a worker is free" if made.next_run_at else "when it is asked for"
        self.stdout.write(
            f"Made the source '{made.name}'. It is looked at {when}; `manage.py sources sync` does so now."
        )

    def _sync(self, name: str, *, dry_run: bool, may_be_empty: bool, **options: Any) -> None:
        source = _find(name)
        with console(self.stderr).status(f"Looking at {source.location} …"):
            looked = service.perform(source.pk, dry_run=dry_run, may_be_empty=may_be_empty, enqueue=False)
            if looked is not None and looked.run is not None:
                while looked.run.state == RunState.RUNNING and ingest.process_batch(looked.run.id):
                    looked.run.refresh_from_db()
        source.refresh_from_db()
        if looked is None:
            error = (source.preview or {}).get("error") if dry_run else source.error
            raise CommandError(error or f"'{name}' is being looked at just now.", returncode=1)
        for state, document_id, reason in looked.changes:
            self.stdout.write(f"{state:9} {printable(document_id)}{': ' + printable(reason) if reason else ''}")
        tally = looked.tally
        for reason, count in tally.left_out.items():
            console(self.stderr).print(f"left out: {count} × {reason}")
        would_be = "would be: " if dry_run else ""
        self.stdout.write(
            f"{would_be}{tally.found} new or changed · {tally.same} the same · {tally.gone} gone · "
            f"{tally.unreadable} unreadable"
        )
        if looked.trouble:
            raise CommandError(looked.trouble, returncode=1)

    def _pause(self, name: str, **options: Any) -> None:
        service.update(_find(name), SYSTEM, is_paused=True)
        self.stdout.write(f"'{name}' is paused.")

    def _resume(self, name: str, **options: Any) -> None:
        service.update(_find(name), SYSTEM, is_paused=False)
        self.stdout.write(f"'{name}' goes on.")

    def _remove(self, name: str, *, keep_documents: bool, yes: bool, **options: Any) -> None:
        source = _find(name)
        count = source.collection.documents.filter(source_root=source.root).count()
        if not yes:
            what = f"keep its {count} documents" if keep_documents else f"remove its {count} documents"
            if input(f"Forget '{name}' and {what}? Type its name: ").strip() != name:
                raise CommandError("Nothing was removed.", returncode=2)
        service.delete(source, SYSTEM, keep_documents=keep_documents)
        self.stdout.write(f"'{name}' is gone.")


def _find(name: str) -> Source:
    source = Source.objects.select_related("collection").filter(name=name).first()
    if source is None:
        raise CommandError(f"There is no source '{name}'. `manage.py sources list` shows them.", returncode=2)
    return source


def _options(given: list[str]) -> dict[str, Any]:
    """``name=value``, where a value that is JSON counts as that; a name that is given again makes a list."""
    found: dict[str, Any] = {}
    for pair in given:
        name, equals, text = pair.partition("=")
        if not equals:
            raise CommandError(f"--option {pair!r} is no name=value.", returncode=2)
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        if name in ("include", "exclude"):
            found[name] = [*found.get(name, []), *(value if isinstance(value, list) else [text])]
        else:
            found[name] = value
    return found


def _option_help() -> str:
    return " ".join(f"{kind}: {', '.join(connector.option_help)}." for kind, connector in CONNECTORS.items())


def _standing(source: Source) -> str:
    if source.is_running:
        return "is being looked at"
    return f"{source.in_words()}: {source.error}" if source.error else source.in_words()


def _plain(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "collection": source.collection.slug,
        "kind": source.kind,
        **{name: getattr(source, name) for name in service.SETTINGS},
        "state": _standing(source),
        "tally": source.tally,
        "last_look": _time(source.finished_at),
        "next_look": _time(source.next_run_at),
    }


def _time(moment: Any) -> str:
    return "" if moment is None else moment.isoformat(timespec="seconds")
