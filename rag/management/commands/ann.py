"""``manage.py ann``: how vectors are searched. Builds and measures beside the running search, then switches."""

from __future__ import annotations

import threading
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand
from django.db import connection
from rich.console import Console
from rich.filesize import decimal as readable_size
from rich.markup import escape
from rich.table import Table

from models_registry.management.refusals import refusals
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound
from rag.ann import configs, indexes
from rag.ann.describe import how, progress_line, state_of
from rag.ann.measure import QUERIES, measure
from rag.models import AnnConfig, AnnPrecision, AnnState, AnnStrategy, Collection, EmbeddingSpace, IterativeScan

PROGRESS_INTERVAL_S = 1.0
OPTIONS = {
    "m": "HNSW: edges of a node",
    "ef_construction": "HNSW: candidates considered for each edge",
    "ef_search": "HNSW: nodes kept while searching",
    "lists": "IVFFlat: cells; 0: the square root of the number of vectors",
    "probes": "IVFFlat: cells looked into",
    "rerank": "binary: how many are ordered by their full vectors",
}


class Command(BaseCommand):
    help = "List, build, measure, put live and drop vector indexes. Searching goes on meanwhile."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listed = actions.add_parser("list", help="every configuration, what was measured of it, and what is live")
        listed.add_argument("--collection", help="slug")
        show = actions.add_parser("show", help="one configuration with everything known of it")
        build = actions.add_parser("build", help="add a configuration, build its index and measure it")
        build.add_argument("collection", help="slug")
        build.add_argument("--strategy", choices=AnnStrategy.values, default=AnnStrategy.HNSW)
        build.add_argument("--precision", choices=AnnPrecision.values, default=AnnPrecision.FULL)
        build.add_argument("--iterative-scan", choices=IterativeScan.values, default=IterativeScan.RELAXED)
        for name, meaning in OPTIONS.items():
            build.add_argument(f"--{name.replace('_', '-')}", type=int, help=meaning)
        build.add_argument("--space", help="slug of an embedding space; without it, that of the live embedder")
        build.add_argument("--rebuild", action="store_true", help="build anew although the same index is there")
        build.add_argument("--activate", action="store_true", help="put it live when it was measured")
        measured = actions.add_parser("measure", help="recall@10 and times against exact search")
        activate = actions.add_parser("activate", help="put a configuration live and drop the index it replaces")
        drop = actions.add_parser("drop", help="drop a configuration's index")
        sweep = actions.add_parser("sweep", help="clear away what stopped builders and deleted collections left")
        for action in (show, measured, activate, drop):
            action.add_argument("number", type=int, help="as `ann list` shows it")
        for action in (build, measured):
            action.add_argument("--queries", type=int, default=QUERIES, help="how many queries to measure with")
        for action in (build, activate):
            action.add_argument("--force", action="store_true", help="although its recall is below the floor")
            action.add_argument("--keep-old", action="store_true", help="keep the index that was live, to go back")
        for action in (build, activate, drop):
            action.add_argument("--reason", default="", help="why; kept with it")
        for action in (drop, sweep):
            action.add_argument("--dry-run", action="store_true", help="only say what would be dropped")

    def handle(self, *, action: str, **options: Any) -> None:
        self.console = Console(file=cast(TextIO, self.stdout), highlight=False)
        with refusals():
            if action not in {"sweep", "show"}:
                for line in configs.sweep():
                    self.stderr.write(f"Cleared away: {line}")
            getattr(self, f"do_{action}")(options)

    def do_list(self, options: Mapping[str, Any]) -> None:
        rows = AnnConfig.objects.select_related("collection", "space").order_by("collection__slug", "space", "-id")
        if options["collection"]:
            rows = rows.filter(collection=_collection(options["collection"]))
        if not rows:
            self.stdout.write("Every search is exact. `manage.py ann build COLLECTION` makes an index.")
            return
        for config in rows:
            facts = [f"#{config.pk} {config.collection.slug}", state_of(config), how(config), *_measured(config)]
            self.stdout.write(" · ".join(facts))

    def do_show(self, options: Mapping[str, Any]) -> None:
        config = configs.find(options["number"], by=SYSTEM)
        table = Table(show_header=False)
        for field in AnnConfig._meta.concrete_fields:
            value = getattr(config, field.name)
            if value not in {None, ""}:
                table.add_row(field.name, escape(str(value)))
        table.add_row("progress", escape(state_of(config)))
        self.console.print(table)

    def do_build(self, options: Mapping[str, Any]) -> None:
        collection = _collection(options["collection"])
        space = _space(options["space"]) if options["space"] else configs.live_space(collection)
        given = {name: options[name] for name in OPTIONS if options[name] is not None}
        given |= {name: options[name] for name in ("strategy", "precision", "iterative_scan")}
        config = configs.propose(
            collection, space, given, by=SYSTEM, reason=options["reason"], rebuild=options["rebuild"]
        )
        with self._progress(config):
            configs.build(config)
        took = f" in {config.build_ms / 1000:.1f} s" if config.build_ms else ""
        self.stdout.write(f"{config} is built{took}: {how(config)}.")
        if config.strategy != AnnStrategy.EXACT:
            self._measure(config, options["queries"])
        if options["activate"]:
            self._activate(config, options)

    def do_measure(self, options: Mapping[str, Any]) -> None:
        self._measure(configs.find(options["number"], by=SYSTEM), options["queries"])

    def do_activate(self, options: Mapping[str, Any]) -> None:
        self._activate(configs.find(options["number"], by=SYSTEM), options)

    def do_drop(self, options: Mapping[str, Any]) -> None:
        config = configs.find(options["number"], by=SYSTEM)
        if options["dry_run"]:
            name = configs.droppable(config)
            self.stdout.write(f"The index {name} would be dropped." if name else "No index would be dropped.")
            return
        name = configs.drop(config, by=SYSTEM, reason=options["reason"])
        self.stdout.write(f"{config} is retired" + (f", and its index {name} dropped." if name else "."))

    def do_sweep(self, options: Mapping[str, Any]) -> None:
        found = configs.sweep(dry_run=options["dry_run"])
        for line in found or ["There is nothing to clear away."]:
            self.stdout.write(line)

    def _measure(self, config: AnnConfig, queries: int) -> None:
        if queries < 1:
            raise NotFound("Measuring takes at least one query.")
        measure(config, by=SYSTEM, queries=queries, on_query=self._say_done)
        self.stdout.write(
            f"recall@10 {config.recall_at_10:.3f} over {config.recall_queries} queries ({config.recall_source}), "
            f"p50 {config.search_p50_ms:.1f} ms, p95 {config.search_p95_ms:.1f} ms."
        )

    def _activate(self, config: AnnConfig, options: Mapping[str, Any]) -> None:
        before = configs.activate(config, by=SYSTEM, reason=options["reason"], force=options["force"])
        self.stdout.write(f"{config} is live: {how(config)}.")
        if before is not None and before.index_name and not options["keep_old"]:
            name = configs.drop(before, by=SYSTEM, reason=f"{config} took its place.")
            self.stdout.write(f"{before} is retired" + (f", and its index {name} dropped." if name else "."))

    def _say_done(self, done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            self.stderr.write(f"{done} of {total} queries measured")

    @contextmanager
    def _progress(self, config: AnnConfig) -> Iterator[None]:
        """Say how far the build is, from a thread of its own, as this one waits for the database."""
        if config.state != AnnState.BUILDING or connection.in_atomic_block:
            yield
            return
        done = threading.Event()

        def watch() -> None:
            try:
                while not done.wait(PROGRESS_INTERVAL_S):
                    if (progress := indexes.progress(config.index_name)) is not None:
                        self.stderr.write(progress_line(progress))
            finally:
                connection.close()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def _measured(config: AnnConfig) -> list[str]:
    facts = [f"{config.vectors:,} vectors"]
    if config.size_bytes is not None:
        facts.append(readable_size(config.size_bytes))
    if config.build_ms is not None:
        facts.append(f"built in {config.build_ms / 1000:.1f} s")
    if config.recall_at_10 is not None:
        facts.append(f"recall@10 {config.recall_at_10:.3f}")
    if config.search_p50_ms is not None:
        facts.append(f"p50 {config.search_p50_ms:.1f} ms, p95 {config.search_p95_ms:.1f} ms")
    return facts


def _collection(slug: str) -> Collection:
    found = Collection.objects.filter(slug=slug).first()
    if found is None:
        raise NotFound(f"There is no collection '{slug}'. `manage.py collections list` shows them.")
    return found


def _space(slug: str) -> EmbeddingSpace:
    found = EmbeddingSpace.objects.filter(slug=slug).first()
    if found is None:
        raise NotFound(f"There is no embedding space '{slug}'.")
    return found
