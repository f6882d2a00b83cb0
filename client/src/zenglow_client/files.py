"""Files and folders as documents: which ones, under which ids, and in which requests they travel."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from zenglow_client.client import DocumentText
from zenglow_client.errors import ConfigurationError

TEXTS = {
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".rst": "text/x-rst",
    ".txt": "text/plain",
    ".text": "text/plain",
    ".log": "text/plain",
}
"""Kinds of text that travel many to a request; every other file has a request of its own."""

SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules"})
BATCH_DOCUMENTS = 100
BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FoundFile:
    path: Path
    document_id: str


def find(paths: Sequence[Path]) -> list[FoundFile]:
    """The files of files and folders, by id; what is hidden is left out.

    A file's id is its name, or the name of its folder and the path below it, with slashes and in NFC: as
    ``manage.py index`` has it. Raises `ConfigurationError` for a path that isn't there, and for two files of one id.
    """
    found: dict[str, FoundFile] = {}
    for given in paths:
        path = Path(os.path.abspath(given))  # noqa: PTH100  (a symbolic link keeps its name)
        if not path.exists():
            raise ConfigurationError(f"There is no file or folder {given}.")
        for file in [path] if path.is_file() else _below(path):
            document_id = unicodedata.normalize("NFC", file.relative_to(path.parent).as_posix())
            other = found.setdefault(document_id, FoundFile(file, document_id))
            if other.path != file:
                raise ConfigurationError(f"{other.path} and {file} would both be '{document_id}'; index one at a time.")
    return [found[document_id] for document_id in sorted(found)]


def text_of(file: FoundFile) -> DocumentText | None:
    """A text file as a document, ``None`` for what must travel as a file. Raises ``OSError``."""
    media_type = TEXTS.get(file.path.suffix.lower())
    if media_type is None or file.path.stat().st_size > BATCH_BYTES:
        return None
    try:
        text = file.path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return None  # the server can tell which encoding it is
    if not text.strip():
        return None  # the server says what is wrong with it, of this file alone
    return {"document_id": file.document_id, "text": text, "media_type": media_type, "source": file.document_id}


def batches(texts: Iterable[DocumentText]) -> Iterator[list[DocumentText]]:
    """Texts in groups of bounded number and size."""
    batch: list[DocumentText] = []
    size = 0
    for text in texts:
        length = len(text["text"].encode())
        if batch and (len(batch) >= BATCH_DOCUMENTS or size + length > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += length
    if batch:
        yield batch


def _below(folder: Path) -> Iterator[Path]:
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS)
        for name in sorted(names):
            path = Path(here) / name
            if not name.startswith(".") and path.is_file():
                yield path
