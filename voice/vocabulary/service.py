"""The vocabularies of collections: which there are, and making them anew when a collection has changed.

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
from voice.engines.vocabularies import ENDING, pronunciation_path
from voice.engines.workers import ROOT

logger = logging.getLogger(__name__)

MOST_PASSAGES = 20_000
"""Passages that a vocabulary is made of; of a larger collection the newest."""
BUILD_TIMEOUT_S = 900

_building: dict[str, threading.Thread] = {}
_lock = threading.Lock()


class VocabularyError(Exception):
    """It could not be made. The message is one sentence."""


def folder() -> Path:
    path: Path = settings.ZENGLOW_DATA_DIR / "voice" / "vocabularies"
    path.mkdir(parents=True, exist_ok=True)
    return path


def vocabulary_for(slug: str) -> Path | None:
    """The vocabulary to listen with: the current one, else the last while the current is made; ``None`` for neither.

    Called when a session begins; never waits for a vocabulary.
    """
    if not settings.VOICE_VOCABULARY:
        return None
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        return None
    current = path_of(collection)
    if current.exists():
        return current
    _build_behind(slug)
    return newest_of(slug)


def path_of(collection: Collection) -> Path:
    """Where the vocabulary of the collection as it is now lies, or will lie."""
    tuned = f"{settings.VOICE_VOCABULARY_WORDS}-{round(settings.VOICE_VOCABULARY_WEIGHT * 100)}"
    # Another collection of the name, or of the id after a restore, was made at another time.
    made_ms = round(collection.created_at.timestamp() * 1000)
    return folder() / f"{collection.slug}.{made_ms}-{collection.generation}-{tuned}{ENDING}"


def newest_of(slug: str) -> Path | None:
    """The last one made for the collection, with whatever settings."""
    made = [path for path in folder().glob(f"*{ENDING}") if path.name.partition(".")[0] == slug]
    return max(made, key=lambda path: path.stat().st_mtime, default=None)


def build(slug: str) -> Path | None:
    """Make the vocabulary of a collection now, unless it is there; older ones of it are removed afterwards.

    ``None`` when there is nothing to make it of. Raises `VocabularyError`.
    """
    collection = Collection.objects.filter(slug=slug).first()
    if collection is None:
        raise VocabularyError(f"There is no collection '{slug}'.")
    out = path_of(collection)
    if out.exists():
        return out
    passages = list(_passages(collection))
    if not passages:
        return None
    command = [
        *(sys.executable, "-m", "voice.vocabulary.child", str(folder() / "stock.arpa"), str(out)),
        *(str(settings.VOICE_VOCABULARY_WORDS), str(settings.VOICE_VOCABULARY_WEIGHT)),
    ]
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
    for path in folder().glob(f"{slug}.*{ENDING}"):
        if path != out:
            path.unlink(missing_ok=True)
            pronunciation_path(path).unlink(missing_ok=True)
    return out


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


def _build_behind(slug: str) -> None:
    with _lock:
        if slug in _building:
            return
        thread = threading.Thread(target=_build_and_close, args=(slug,), name=f"vocabulary-{slug}", daemon=True)
        _building[slug] = thread
        thread.start()


def _build_and_close(slug: str) -> None:
    try:
        build(slug)
    except Exception as error:
        logger.warning("%s", error)
    finally:
        connections.close_all()
        with _lock:
            del _building[slug]


def settle() -> None:
    """Wait until nothing is being made."""
    while threads := list(_building.values()):
        for thread in threads:
            thread.join()
