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
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.db import connections

from rag.models import Chunk, Collection
from voice.engines.contracts import VocabularyKind
from voice.engines.vocabularies import ENDING, HOT_WORDS_ENDING, pronunciation_path
from voice.engines.workers import ROOT
from voice.vocabulary.hot_words import MOST

logger = logging.getLogger(__name__)

MOST_PASSAGES = 20_000
"""Passages that a vocabulary is made of; of a larger collection the newest."""
BUILD_TIMEOUT_S = 900

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

    Called when a session begins; never waits for a vocabulary.
    """
    if not settings.VOICE_VOCABULARY:
        return None
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        return None
    current = path_of(collection, kind)
    if current.exists():
        return current
    _build_behind(slug, kind)
    return newest_of(slug, kind)


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


def build(slug: str, kind: VocabularyKind = VocabularyKind.LANGUAGE_MODEL) -> Path | None:
    """Make the vocabulary of a collection now, unless it is there; older ones of it are removed afterwards.

    ``None`` when there is nothing to make it of. Raises `VocabularyError`.
    """
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        raise VocabularyError(f"There is no collection '{slug}'.")
    out = path_of(collection, kind)
    if out.exists():
        return out
    passages = list(_passages(collection))
    if not passages:
        return None
    command = [sys.executable, "-m", *_maker(out, kind)]
    environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    text = "\n".join(re.sub(r"\s*\n\s*", ". ", passage) for passage in passages)
    try:
        subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            input=text.encode(),
            capture_output=True,
            timeout=BUILD_TIMEOUT_S,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise VocabularyError(f"The vocabulary of '{slug}' was not made within {BUILD_TIMEOUT_S} s.") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        raise VocabularyError(f"The vocabulary of '{slug}' could not be made: {last[0][:300]}") from error
    for path in folder().glob(f"{slug}.*{ENDINGS[kind]}"):
        if path != out:
            path.unlink(missing_ok=True)
            pronunciation_path(path).unlink(missing_ok=True)
    return out


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


def _build_behind(slug: str, kind: VocabularyKind) -> None:
    with _lock:
        if (slug, kind) in _building:
            return
        thread = threading.Thread(target=_build_and_close, args=(slug, kind), name=f"vocabulary-{slug}", daemon=True)
        _building[slug, kind] = thread
        thread.start()


def _build_and_close(slug: str, kind: VocabularyKind) -> None:
    try:
        build(slug, kind)
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
