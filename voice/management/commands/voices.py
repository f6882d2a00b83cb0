"""``manage.py voices``: which there are, and how they sound."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from ops.contracts.problems import Unavailable
from voice import installed, sounds
from voice.engines.contracts import EngineError, Style


class Command(BaseCommand):
    help = "List the voices, or have one speak."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("list", help="every voice of the engine that speaks, the default first")
        tried = actions.add_parser("test", help="have a voice speak into a WAV file")
        tried.add_argument("voice", nargs="?", default="")
        tried.add_argument("--text", default="Good afternoon. This is how I sound.")
        tried.add_argument("--style", choices=[style.value for style in Style], default=Style.EXPLAINING.value)
        tried.add_argument("--out", type=Path, default=Path("voice.wav"))

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            spoken = installed.text_to_speech()
            if action == "list":
                for name in spoken.engine.voices():
                    self.stdout.write(f"{name}  ({spoken.label})")
                return
            pieces: list[bytes] = []
            utterance = spoken.engine.speak(
                options["text"], pieces.append, style=Style(options["style"]), voice=options["voice"]
            )
            utterance.done.result()
        except (EngineError, Unavailable, ValueError) as error:
            raise CommandError(str(error), returncode=2) from error
        finally:
            installed.close_engines()
        out: Path = options["out"]
        out.write_bytes(sounds.wav_of(b"".join(pieces), spoken.engine.sample_rate_hz))
        seconds = sum(map(len, pieces)) / 2 / spoken.engine.sample_rate_hz
        self.stdout.write(f"{out}: {seconds:.1f} s")
