"""``manage.py voices``: what hears and speaks here, fetching and adding more, and how they sound."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.filesize import decimal as readable_size
from rich.table import Table

from models_registry import deployments
from models_registry.live import not_deployed
from models_registry.management.refusals import refusals
from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.versions import find_version
from ops.contracts.problems import Problem
from ops.terminal import console, progress
from voice import catalogue, installed, mirror, model_files, sounds
from voice.engines.contracts import EngineError, Style, TextToSpeech


class Command(BaseCommand):
    help = "List what hears and speaks, fetch or add a model, or have a voice speak."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        listed = actions.add_parser("list", help="the models that are here, the voices, and what can be fetched")
        listed.add_argument("--names", action="store_true", help="only the voices that speak, one a line")
        fetched = actions.add_parser("fetch", help="fetch a model from VOICE_MODELS_URL and register it")
        fetched.add_argument("model", help="a name of `voices list`, or OWNER/REPOSITORY[@REVISION] of a Whisper model")
        added = actions.add_parser("add", help="register a model that is on this machine")
        added.add_argument("model", metavar="PATH_OR_NAME", help="a Whisper folder, a voice's .onnx, or a cached model")
        for action in (fetched, added):
            action.add_argument("--name", help="what it is called here; without it its own name")
            action.add_argument(
                "--set",
                action="append",
                default=[],
                metavar="NAME=VALUE",
                help="of a Whisper model: device, compute_type, beam_size, language",
            )
        tried = actions.add_parser("test", help="have a voice speak into a WAV file")
        tried.add_argument("voice", nargs="?", default="")
        tried.add_argument("--model", metavar="NAME[@NUMBER]", help="another one than the one that is live")
        tried.add_argument("--text", default="Good afternoon. This is how I sound.")
        tried.add_argument("--style", choices=[style.value for style in Style], default=Style.EXPLAINING.value)
        tried.add_argument("--out", type=Path, default=Path("voice.wav"))

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            with refusals():
                getattr(self, f"do_{action}")(options)
        except (EngineError, Problem, ValueError, model_files.ModelFilesError, mirror.MirrorError) as error:
            raise CommandError(str(error), returncode=2) from error
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}.", returncode=2) from error
        finally:
            installed.close_engines()

    def do_list(self, options: Mapping[str, Any]) -> None:
        voices = installed.voices()
        if options["names"]:
            self.stdout.write("\n".join(voices))
            return
        live = {row.model_version_id: row.scope for row in deployments.live().exclude(model_version=None)}
        here = Table("model", "does", "engine", "live")
        for version in ModelVersion.objects.select_related("model").filter(
            model__kind__in=(ModelKind.STT, ModelKind.TTS)
        ):
            kind = version.model.get_kind_display()
            here.add_row(str(version), kind, version.model.provider, live.get(version.pk, ""))
        out = console(self.stdout)
        out.print(here)
        shown = ", ".join(voices[:12]) + (f" and {len(voices) - 12} more" if len(voices) > 12 else "")
        out.print(f"Voices: {shown or 'none, as nothing that speaks is live'}.")
        out.print(f"\nTo be fetched from {mirror.base_url()}:")
        more = Table("name", "does", "size", "about")
        known = set(ModelVersion.objects.values_list("model__name", flat=True))
        for one in catalogue.KNOWN.values():
            if one.name not in known:
                more.add_row(one.name, one.kind.label, f"{one.size_mb} MB", one.about)
        out.print(more)

    def do_fetch(self, options: Mapping[str, Any]) -> None:
        known = catalogue.find(options["model"])
        if known is None:
            raise CommandError(
                f"'{options['model']}' is not known. `manage.py voices list` shows what can be fetched; any converted "
                "Whisper model is by OWNER/REPOSITORY.",
                returncode=2,
            )
        files = mirror.listing(known)
        folder: Path = settings.ZENGLOW_DATA_DIR / "voice" / "downloads" / known.name
        with progress(self.stderr) as bar:
            bars: dict[str, Callable[[int, int], None]] = {}

            def on_bytes(path: str, done: int, total: int) -> None:
                if path not in bars:
                    bars[path] = bar(path.rpartition("/")[2])
                bars[path](done, total)

            paths = mirror.fetch(known, files, folder, on_bytes)
        size = sum(remote.size for remote in files.values())
        provenance = {
            "fetched": f"{mirror.base_url()}/{known.repository}",
            "revision": known.revision,
            "files": {role: remote.digest for role, remote in files.items()},
        }
        found = model_files.Found(known.name, known.kind, known.provider, paths)
        version = model_files.register(
            found, options["name"] or known.name, _parameters(options["set"]), provenance, known.about
        )
        shutil.rmtree(folder)
        self.stdout.write(f"{version} is registered ({readable_size(size)}, every hash as listed).")
        self._next(version)

    def do_add(self, options: Mapping[str, Any]) -> None:
        found = model_files.look(options["model"])
        provenance = {"added": options["model"]}
        version = model_files.register(found, options["name"] or found.name, _parameters(options["set"]), provenance)
        self.stdout.write(f"{version} is registered.")
        self._next(version)

    def do_test(self, options: Mapping[str, Any]) -> None:
        engine = self._mouth(options["model"])
        try:
            pieces: list[bytes] = []
            utterance = engine.speak(
                options["text"], pieces.append, style=Style(options["style"]), voice=options["voice"]
            )
            utterance.done.result()
        finally:
            engine.close()
        out: Path = options["out"]
        out.write_bytes(sounds.wav_of(b"".join(pieces), engine.sample_rate_hz))
        seconds = sum(map(len, pieces)) / 2 / engine.sample_rate_hz
        self.stdout.write(f"{out}: {seconds:.1f} s")

    def _mouth(self, label: str | None) -> TextToSpeech:
        if label is None:
            return installed.text_to_speech().engine
        version = find_version(label)
        if version.model.kind != ModelKind.TTS:
            raise CommandError(f"{version} does not speak.", returncode=2)
        engine: Any = installed.start(not_deployed(Slot.TTS, version))
        return engine  # type: ignore[no-any-return]

    def _next(self, version: ModelVersion) -> None:
        self.stdout.write(f"Next: manage.py voice doctor, then manage.py registry promote {version}")


def _parameters(given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs; numbers are numbers. Raises `ValueError`."""
    parameters: dict[str, Any] = {}
    for pair in given:
        name, separator, value = pair.partition("=")
        if not separator:
            raise ValueError(f"'{pair}' is not of the form NAME=VALUE.")
        parameters[name] = int(value) if value.isdecimal() else value
    return parameters
