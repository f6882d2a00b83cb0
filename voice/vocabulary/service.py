"""The vocabularies of collections: which there are, and making them anew when a collection has changed.

An engine says which kind it takes: a language model for PocketSphinx, hot words for Whisper.

What is made lies below ``var/voice/vocabularies``, named by collection, generation and settings. It is used by
whoever speaks, so it is made of documents that everybody may read, and of no others.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import connections
from kombu.exceptions import OperationalError as BrokerError

from models_registry import serving
from models_registry.live import view
from models_registry.models import Slot
from ops.contracts.problems import Unavailable
from rag.models import Chunk, Collection
from voice.engines import whisper
from voice.engines.contracts import VocabularyKind
from voice.engines.vocabularies import ENDING, HOT_WORDS_ENDING, pronunciation_path
from voice.engines.workers import ROOT
from voice.vocabulary.hot_words import MOST
from voice.vocabulary.words import COMPLETE

logger = logging.getLogger(__name__)

MOST_PASSAGES = 20_000
"""Passages that a vocabulary is made of; of a larger collection the newest."""
BUILD_TIMEOUT_S = 900
FOLLOWED_EVERY_S = 600.0
"""How soon after one was made another is made only because the collection changed."""

ENDINGS = {VocabularyKind.LANGUAGE_MODEL: ENDING, VocabularyKind.HOT_WORDS: HOT_WORDS_ENDING}

_building: dict[tuple[str, VocabularyKind], threading.Thread] = {}
_lock = threading.Lock()


class VocabularyError(Exception):
    """It could not be made. The message is one sentence."""


def folder() -> Path:
    path: Path = settings.ZENGLOW_DATA_DIR / "voice" / "vocabularies"
    path.mkdir(parents=True, exist_ok=True)
    return path


def vocabulary_for(slug: str, kind: VocabularyKind = VocabularyKind.LANGUAGE_MODEL) -> Path | None:
    """The vocabulary to listen with: the current one, else the last while the current is made; ``None`` for neither.

    Called when somebody is about to speak; never waits for a vocabulary. A session that lasts asks `newest_of`
    now and then: what was being made is there by then, and the last is gone.
    """
    if not settings.VOICE_VOCABULARY:
        return None
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        return None
    current = path_of(collection, kind)
    if current.exists():
        return current
    build_behind(slug, kind)
    return newest_of(slug, kind)


def follow(collection: Collection) -> None:
    """Have a worker make the vocabulary of a collection that was indexed, so that the first who speaks is understood.

    Not where one was made a short while ago: a stream of small changes must not keep a core busy. Whoever speaks next
    has the current one made anyway.
    """
    from voice.tasks import make_vocabulary  # which imports this module

    if not settings.VOICE_VOCABULARY:
        return
    last = newest_of(collection.slug, kind_for(collection.slug))
    if last is not None and time.time() - last.stat().st_mtime < FOLLOWED_EVERY_S:
        return
    try:
        make_vocabulary.delay(collection.slug)
    except BrokerError as error:
        logger.warning("The vocabulary of '%s' waits for the first who speaks: %s", collection.slug, error)


def kind_for(slug: str) -> VocabularyKind:
    """What the engine that listens to questions about a collection takes. No engine is started for a look."""
    try:
        listening = serving.in_service(view.model(Slot.STT, slug), slug)
    except Unavailable:
        return VocabularyKind.LANGUAGE_MODEL
    return VocabularyKind.HOT_WORDS if listening.provider == whisper.NAME else VocabularyKind.LANGUAGE_MODEL


def path_of(collection: Collection, kind: VocabularyKind = VocabularyKind.LANGUAGE_MODEL) -> Path:
    """Where the vocabulary of the collection as it is now lies, or will lie."""
    tuned = f"{settings.VOICE_VOCABULARY_WORDS}-{round(settings.VOICE_VOCABULARY_WEIGHT * 100)}"
    if kind is VocabularyKind.HOT_WORDS:
        tuned = str(MOST)
    # Another collection of the name, or of the id after a restore, was made at another time.
    made_ms = round(collection.created_at.timestamp() * 1000)
    return folder() / f"{collection.slug}.{made_ms}-{collection.generation}-{tuned}{ENDINGS[kind]}"


def newest_of(slug: str, kind: VocabularyKind = VocabularyKind.LANGUAGE_MODEL) -> Path | None:
    """The last one made for the collection, with whatever settings."""
    made = [path for path in folder().glob(f"*{ENDINGS[kind]}") if path.name.partition(".")[0] == slug]
    return max(made, key=lambda path: path.stat().st_mtime, default=None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A vocabulary that is to be made, with the passages that it is made of, one a line."""

    slug: str
    kind: VocabularyKind
    out: Path
    passages: bytes


def build(slug: str, kind: VocabularyKind = VocabularyKind.LANGUAGE_MODEL) -> Path | None:
    """Make the vocabulary of a collection now, unless it is there; older ones of it are removed afterwards.

    ``None`` when there is nothing to make it of. Raises `VocabularyError`.
    """
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        raise VocabularyError(f"There is no collection '{slug}'.")
    out = path_of(collection, kind)
    if not out.exists():
        draft = draft_of(collection, kind)
        if draft is None:
            return None
        _make(draft)
    return out


def draft_of(collection: Collection, kind: VocabularyKind) -> Draft | None:
    """The vocabulary of a collection as it is now; ``None`` when there is nothing to make it of."""
    passages = [re.sub(r"\s*\n\s*", ". ", passage) for passage in _passages(collection)]
    if not passages:
        return None
    return Draft(collection.slug, kind, path_of(collection, kind), "\n".join([*passages, COMPLETE]).encode())


def _make(draft: Draft) -> None:
    command = [sys.executable, "-m", *_maker(draft.out, draft.kind)]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=draft.passages,
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise VocabularyError(f"The vocabulary of '{draft.slug}' was not made within {BUILD_TIMEOUT_S} s.") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise VocabularyError(f"The vocabulary of '{draft.slug}' could not be made: {last[0][:300]}") from error
    for path in folder().glob(f"{draft.slug}.*{ENDINGS[draft.kind]}"):
        if path != draft.out:
            path.unlink(missing_ok=True)
            pronunciation_path(path).unlink(missing_ok=True)


def _maker(out: Path, kind: VocabularyKind) -> list[str]:
    """The module that makes it, with its arguments."""
    if kind is VocabularyKind.HOT_WORDS:
        return ["voice.vocabulary.hot_words", str(out)]
    tuned = str(settings.VOICE_VOCABULARY_WORDS), str(settings.VOICE_VOCABULARY_WEIGHT)
    return ["voice.vocabulary.child", str(folder() / "stock.arpa"), str(out), *tuned]


def _passages(collection: Collection) -> Iterator[str]:
    if collection.default_access_groups:
        chunks = Chunk.objects.none()
    else:
        chunks = Chunk.objects.filter(document__collection=collection, document__access_groups=[])
    titles_seen: set[str] = set()
    for title, text in chunks.order_by("-id").values_list("document__title", "text")[:MOST_PASSAGES]:
        if title not in titles_seen:
            titles_seen.add(title)
            yield title
        yield text


def build_behind(slug: str, kind: VocabularyKind) -> None:
    """Make it in a thread, unless that is under way. What goes wrong is logged."""
    _behind(slug, kind, lambda: build(slug, kind))


def make_behind(draft: Draft) -> None:
    """Make a draft in a thread, which needs no connection to the database, unless that is under way."""
    _behind(draft.slug, draft.kind, lambda: _make(draft))


def _behind(slug: str, kind: VocabularyKind, make: Callable[[], object]) -> None:
    with _lock:
        if (slug, kind) in _building:
            return
        thread = threading.Thread(target=_run, args=(slug, kind, make), name=f"vocabulary-{slug}", daemon=True)
        _building[slug, kind] = thread
        thread.start()


def _run(slug: str, kind: VocabularyKind, make: Callable[[], object]) -> None:
    try:
        make()
    except Exception as error:
        logger.warning("%s", error)
    finally:
        connections.close_all()
        with _lock:
            del _building[slug, kind]


def settle() -> None:
    """Wait until nothing is being made."""
    while threads := list(_building.values()):
        for thread in threads:
            thread.join()
