"""``manage.py embedder``: bring in an embedder, embed a collection with it, switch, and go back."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.table import Table

from models_registry import deployments, space_builds
from models_registry.live import view
from models_registry.management.refusals import refusals
from models_registry.models import GLOBAL_SCOPE, ModelKind, ModelVersion, Slot
from models_registry.scopes import readable_scope
from models_registry.versions import find_version
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound, Unprocessable
from ops.terminal import console, progress
from rag import reembedding
from rag.embedders import ExportFailedError, add_embedder, read_folder
from rag.models import Collection
from rag.pipeline.embed import EmbeddingError
from rag.recipes.model_folder import Pooling


class Command(BaseCommand):
    help = "Use another sentence-transformers model: add it, embed a collection with it beside the live one, switch."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        add = actions.add_parser("add", help="export a model to ONNX and register it")
        add.add_argument("model", metavar="PATH_OR_NAME", help="a sentence-transformers folder, or a cached model")
        add.add_argument("--name", help="what it is called here; without it the name or the folder's")
        add.add_argument("--query-prompt", help="put before each query, in place of the model's own")
        add.add_argument("--document-prompt", help="put before each passage, in place of the model's own")
        add.add_argument("--pooling", type=Pooling, choices=list(Pooling), help="in place of the model's own")
        add.add_argument("--dry-run", action="store_true", help="only show what would be registered")
        actions.add_parser("list", help="every embedder, where it is live and which passages have its vectors")
        show = actions.add_parser("show", help="one embedder: dimension, prompts, vectors by collection")
        show.add_argument("embedder", metavar="NAME[@NUMBER]")
        embed = actions.add_parser("embed", help="make the vectors that a collection lacks")
        embed.add_argument("collection")
        embed.add_argument("--embedder", metavar="NAME[@NUMBER]", help="without it, the collection's live one")
        embed.add_argument("--dry-run", action="store_true", help="only say how many are missing")
        activate = actions.add_parser("activate", help="search by it, once all its vectors are there")
        activate.add_argument("embedder", metavar="NAME[@NUMBER]")
        activate.add_argument("--collection", help="slug; without it the global choice")
        activate.add_argument("--reason", default="", help="why; kept in the history")
        drop = actions.add_parser("drop", help="delete a collection's vectors of an embedder that is not live there")
        drop.add_argument("embedder", metavar="NAME[@NUMBER]")
        drop.add_argument("--collection", required=True, help="slug")
        drop.add_argument("--dry-run", action="store_true", help="only say how many there are")

        build = actions.add_parser("build", help="have the workers fill a space beside the live one, and check it")
        build.add_argument("embedder", metavar="NAME[@NUMBER]")
        build.add_argument("--collection", help="slug; without it everywhere")
        build.add_argument("--chunks-per-minute", type=int, help="without it as fast as it goes")
        build.add_argument("--switch", action="store_true", help="search by it as soon as its check has passed")
        build.add_argument(
            "--keep-hours", type=int, help="how long to keep the vectors from before a switch; 0: until dropped"
        )
        build.add_argument("--reason", default="", help="why; kept in the history")
        actions.add_parser("builds", help="every build with its progress and what its check found")
        for name, help_text in (
            ("build-check", "check a build that is ready once more"),
            ("build-switch", "search by the space of a build that is ready"),
            ("build-rollback", "search by the space of before the switch again"),
            ("build-cancel", "give a build up"),
            ("build-drop", "delete the vectors that a build left behind"),
        ):
            change = actions.add_parser(name, help=help_text)
            change.add_argument("number", type=int)
            if name == "build-drop":
                change.add_argument("--dry-run", action="store_true", help="only say how many there are")
            elif name != "build-check":
                change.add_argument("--reason", default="", help="why; kept in the history")
            if name == "build-switch":
                change.add_argument("--force", action="store_true", help="although its check speaks against it")

    def handle(self, *, action: str, **options: Any) -> None:
        with refusals():
            try:
                getattr(self, f"do_{action.replace('-', '_')}")(options)
            except (ExportFailedError, EmbeddingError) as error:
                raise CommandError(str(error), returncode=2) from error

    def do_add(self, options: Mapping[str, Any]) -> None:
        name = options["name"] or options["model"].rstrip("/").rpartition("/")[2]
        folder = read_folder(
            options["model"], name, query_prompt=options["query_prompt"], document_prompt=options["document_prompt"]
        )
        self.stdout.write(f"{name}: {folder.path}")
        self.stdout.write(
            f"prompts, from {folder.prompts.origin}: query {folder.prompts.query!r}, "
            f"document {folder.prompts.document!r}"
        )
        if options["dry_run"]:
            self.stdout.write("Nothing was exported or registered.")
            return
        with console(self.stderr).status("Exporting to ONNX and comparing with the original …"):
            version = add_embedder(name, folder, options["pooling"])
        self._describe(version)
        self.stdout.write(f"Next: manage.py embedder embed COLLECTION --embedder {version}")

    def do_list(self, options: Mapping[str, Any]) -> None:
        table = Table("embedder", "dimension", "pooling", "live", "vectors")
        for version in _versions():
            scopes = deployments.live().filter(slot=Slot.EMBEDDER, model_version=version)
            vectors = sum(found.vectors for found in reembedding.coverage(version))
            table.add_row(
                str(version),
                str(version.parameters["dimension"]),
                str(version.parameters["pooling"]),
                ", ".join(scopes.order_by("scope").values_list("scope", flat=True)),
                f"{vectors:,}",
            )
        console(self.stdout).print(table)

    def do_show(self, options: Mapping[str, Any]) -> None:
        version = _embedder(options["embedder"])
        self._describe(version)
        table = Table("collection", "passages", "vectors", "missing")
        for found in reembedding.coverage(version):
            table.add_row(found.collection, f"{found.chunks:,}", f"{found.vectors:,}", f"{found.missing:,}")
        console(self.stdout).print(table)

    def do_embed(self, options: Mapping[str, Any]) -> None:
        collection = _collection(options["collection"])
        version = _embedder(options["embedder"]) if options["embedder"] else _live(collection)
        if options["dry_run"]:
            found = reembedding.coverage_of(collection, version)
            self.stdout.write(f"{found.missing:,} of {found.chunks:,} passages lack a vector of {version}.")
            return
        try:
            filled = self._fill(collection, version)
        except KeyboardInterrupt:
            raise CommandError("Stopped. The same command goes on from there.", returncode=130) from None
        self.stdout.write(f"{filled:,} passages of '{collection.slug}' embedded with {version}.")

    def do_activate(self, options: Mapping[str, Any]) -> None:
        version = _embedder(options["embedder"])
        scope = readable_scope(options["collection"], SYSTEM)
        row = deployments.activate(Slot.EMBEDDER, version, scope, by=SYSTEM, reason=options["reason"])
        view.expire()
        place = "everywhere" if row.scope == GLOBAL_SCOPE else f"in '{row.scope}'"
        self.stdout.write(f"{version} is the embedder {place}. Back: manage.py registry rollback embedder" + _at(scope))
        # What was indexed between the last look and the switch.
        for collection in Collection.objects.filter(**({} if scope == GLOBAL_SCOPE else {"slug": scope})):
            if _live(collection) == version:
                self._fill(collection, version)
        trained_with = _ranker_embedders(scope)
        if trained_with and str(version) not in trained_with:
            self.stdout.write(
                f"The live ranker was trained with {', '.join(sorted(trained_with))}: evaluate before you rely on it."
            )

    def do_drop(self, options: Mapping[str, Any]) -> None:
        collection, version = _collection(options["collection"]), _embedder(options["embedder"])
        count = reembedding.drop(collection, version, SYSTEM, dry_run=options["dry_run"])
        verb = "would be deleted" if options["dry_run"] else "deleted"
        self.stdout.write(f"{count:,} vectors of {version} in '{collection.slug}' {verb}.")

    def do_build(self, options: Mapping[str, Any]) -> None:
        build = space_builds.start(
            _embedder(options["embedder"]),
            readable_scope(options["collection"], SYSTEM),
            by=SYSTEM,
            reason=options["reason"],
            chunks_per_minute=options["chunks_per_minute"],
            switches=options["switch"],
            keep_hours=options["keep_hours"],
        )
        self.stdout.write(f"{build}: {build.done:,} of {build.total:,} passages. Follow it: manage.py embedder builds")

    def do_builds(self, options: Mapping[str, Any]) -> None:
        table = Table("build", "embedder", "scope", "state", "passages", "check", "dropped at")
        for build in space_builds.everything()[:50]:
            lost = space_builds.losses(build.check_result)
            check = "\n".join(lost) or ("passed" if build.check_result else build.failure or "–")
            passages = f"{build.done:,} of {build.total:,}"
            drops = f"{build.drops_at:%Y-%m-%d %H:%M}" if build.drops_at else "–"
            state = build.get_state_display()
            table.add_row(str(build.pk), str(build.version), build.scope, state, passages, check, drops)
        console(self.stdout).print(table)

    def do_build_switch(self, options: Mapping[str, Any]) -> None:
        number, reason = options["number"], options["reason"]
        build = space_builds.switch(number, by=SYSTEM, reason=reason, force=options["force"])
        until = f" until {build.drops_at:%Y-%m-%d %H:%M}" if build.drops_at else ""
        self.stdout.write(
            f"{build.version} is the embedder of {build.scope}. Its forerunner's vectors are kept{until}. "
            f"Back: manage.py embedder build-rollback {build.pk}"
        )

    def do_build_check(self, options: Mapping[str, Any]) -> None:
        self.stdout.write(f"{space_builds.check(options['number'], by=SYSTEM)} is checked again.")

    def do_build_rollback(self, options: Mapping[str, Any]) -> None:
        build = space_builds.roll_back(options["number"], by=SYSTEM, reason=options["reason"])
        self.stdout.write(f"{build.before} is the embedder of {build.scope} again.")

    def do_build_cancel(self, options: Mapping[str, Any]) -> None:
        build = space_builds.cancel(options["number"], by=SYSTEM, reason=options["reason"])
        self.stdout.write(f"{build} is {build.get_state_display()}; its vectors stay.")

    def do_build_drop(self, options: Mapping[str, Any]) -> None:
        count = space_builds.drop(options["number"], by=SYSTEM, dry_run=options["dry_run"])
        self.stdout.write(f"{count:,} vectors {'would be ' if options['dry_run'] else ''}deleted.")

    def _fill(self, collection: Collection, version: ModelVersion) -> int:
        with progress(self.stderr) as bar:
            return reembedding.fill(collection, version, bar(f"Embedding {collection.slug}"))

    def _describe(self, version: ModelVersion) -> None:
        parameters = version.parameters
        normalised = "normalised" if parameters["normalize"] else "not normalised"
        self.stdout.write(
            f"{version}: {parameters['dimension']} numbers, {parameters['max_tokens']} tokens, "
            f"{parameters['pooling']} pooling, {normalised}"
        )
        self.stdout.write(f"query prompt {parameters['query_prompt']!r}")
        self.stdout.write(f"document prompt {parameters['document_prompt']!r}")
        agreement = version.provenance.get("agreement")
        if agreement is not None:
            self.stdout.write(f"smallest cosine to the original's vectors: {agreement:.7f}")


def _versions() -> list[ModelVersion]:
    of_kind = ModelVersion.objects.filter(model__kind=ModelKind.EMBEDDER)
    return list(of_kind.select_related("model").order_by("model__name", "-number"))


def _embedder(label: str) -> ModelVersion:
    version = find_version(label)
    if version.model.kind != ModelKind.EMBEDDER:
        raise Unprocessable(f"{version} is no embedder but a {version.model.get_kind_display()} model.")
    return version


def _collection(slug: str) -> Collection:
    found = Collection.objects.filter(slug=slug).first()
    if found is None:
        raise NotFound(f"There is no collection '{slug}'.")
    return found


def _live(collection: Collection) -> ModelVersion:
    deployed = deployments.effective(Slot.EMBEDDER, collection.slug)
    if deployed is None or deployed.model_version is None:
        raise NotFound("No embedder is live. `manage.py seed` provides one.")
    return deployed.model_version


def _ranker_embedders(scope: str) -> set[str]:
    deployed = deployments.effective(Slot.LTR, scope)
    version = deployed.model_version if deployed else None
    return set(version.provenance.get("embedders", [])) if version else set()


def _at(scope: str) -> str:
    return "" if scope == GLOBAL_SCOPE else f" --collection {scope}"
