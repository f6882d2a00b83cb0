"""``manage.py voice``: what works of the voice agent, its vocabularies, its protocol."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from voice import doctor, protocol
from voice.recipes import interruption
from voice.vocabulary import service

REFERENCE = settings.BASE_DIR / "docs" / "reference"


class Command(BaseCommand):
    help = "Look after the voice agent."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        actions.add_parser("doctor", help="what is installed, whether it works, and how fast it is")
        vocabulary = actions.add_parser("vocabulary", help="make a collection's vocabulary now")
        vocabulary.add_argument("--collection", default=settings.RAG_DEFAULT_COLLECTION)
        written = actions.add_parser("protocol", help="write the reference of /ws/voice")
        written.add_argument("--check", action="store_true", help="write nothing; fail when it is not current")
        trained = actions.add_parser("train-interruptions", help="train the judge of interruptions on its labelled set")
        trained.add_argument("--out", type=Path, help="another file than the one that ships")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        getattr(self, f"_{action.replace('-', '_')}")(**options)

    def _doctor(self, **options: Any) -> None:
        marks = {
            doctor.State.WORKS: self.style.SUCCESS("works "),
            doctor.State.FAILS: self.style.ERROR("fails "),
            doctor.State.ABSENT: "absent",
        }
        failed = False
        for part in doctor.examine():
            failed = failed or part.state is doctor.State.FAILS
            self.stdout.write(f"{marks[part.state]}  {part.name}: {part.what}")
            if part.next:
                self.stdout.write(f"        {part.next}")
        if failed:
            raise CommandError("Something does not work.", returncode=1)

    def _vocabulary(self, *, collection: str, **options: Any) -> None:
        try:
            made = service.build(collection)
        except service.VocabularyError as error:
            raise CommandError(str(error), returncode=2) from error
        if made is None:
            self.stdout.write(f"Nothing of '{collection}' is open to everybody: there is nothing to make it of.")
        else:
            self.stdout.write(f"{made} ({made.stat().st_size / 1e6:.1f} MB)")

    def _protocol(self, *, check: bool, **options: Any) -> None:
        stale = []
        for name, text in references().items():
            path = REFERENCE / name
            if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
                stale.append(str(path.relative_to(settings.BASE_DIR)))
            elif not check:
                path.write_text(text, encoding="utf-8")
                self.stdout.write(f"Wrote {path.relative_to(settings.BASE_DIR)}")
        if stale:
            raise CommandError(f"{' and '.join(stale)}: run `manage.py voice protocol`.", returncode=1)

    def _train_interruptions(self, *, out: Path | None, **options: Any) -> None:
        about = interruption.make()
        if out is None:
            interruption.write(about)
        else:
            interruption.write(about, out)
        for judge, figures in about["metrics"].items():
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
            self.stdout.write(f"{judge:<9} {shown}")


def references() -> dict[str, str]:
    """The generated files of ``docs/reference``."""
    return {
        "voice-protocol.md": protocol.reference_page(),
        "voice.asyncapi.json": json.dumps(protocol.asyncapi(), indent=2, ensure_ascii=False) + "\n",
    }
