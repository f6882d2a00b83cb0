"""The bytes of uploaded and indexed files, addressed by the sha256 of their content, in Django's default storage.

A file is complete before its name exists. Nothing counts references: what no document and no unfinished item names any
more is removed by `collect_garbage`, after a grace that covers the time between `put` and the row that names it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import BinaryIO, cast

from django.core.files.storage import default_storage
from django.db import transaction
from django.utils import timezone

from models_registry.locks import lock_until_commit
from ops import files
from rag.models import Document, IndexItem, ItemState

FOLDER = "originals"
GRACE = timedelta(hours=24)

_SHA256 = re.compile(r"[0-9a-f]{64}")


class OriginalError(Exception):
    """An original can't be stored or read; the message is one sentence for an operator."""


def digest(data: bytes) -> str:
    """The address of some content, stored or not: its sha256, 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def put(data: bytes) -> str:
    """Store the content, unless it is there, and return its sha256. Raises `OriginalError`."""
    sha256 = digest(data)
    name = _name(sha256)
    try:
        with transaction.atomic():
            lock_until_commit(f"original:{sha256}")
            if _is_fresh(name, len(data)):
                return sha256
            files.store(data, name)
    except OSError as error:
        raise OriginalError(f"The file could not be stored: {error.strerror or error}.") from error
    return sha256


def read(sha256: str) -> bytes:
    """The content. Raises `OriginalError` when it is gone or damaged."""
    with open_original(sha256) as file:
        data = file.read()
    if digest(data) != sha256:
        raise OriginalError("The stored original is damaged; add the document again.")
    return data


def open_original(sha256: str) -> BinaryIO:
    """The content, opened for reading. Raises `OriginalError` when it is gone."""
    if not _SHA256.fullmatch(sha256):
        raise OriginalError("This document has no stored original.")
    try:
        return cast("BinaryIO", default_storage.open(_name(sha256)))
    except OSError as error:
        raise OriginalError("The stored original is gone; add the document again.") from error


def collect_garbage(grace: timedelta = GRACE) -> int:
    """Delete what nothing refers to and nobody has stored within ``grace``. Returns how many files."""
    limit = timezone.now() - grace
    deleted = 0
    for sha256 in _stored():
        name = _name(sha256)
        if _modified(name) >= limit or _is_referenced(sha256):
            continue
        with transaction.atomic():
            lock_until_commit(f"original:{sha256}")
            if _modified(name) < limit and not _is_referenced(sha256):
                default_storage.delete(name)
                deleted += 1
    return deleted


def _name(sha256: str) -> str:
    return f"{FOLDER}/{sha256[:2]}/{sha256}"


def _is_fresh(name: str, size_bytes: int) -> bool:
    """Whether the whole content is there and far from being collected; an old one is written again."""
    try:
        return default_storage.size(name) == size_bytes and _modified(name) > timezone.now() - GRACE / 2
    except FileNotFoundError:
        return False


def _modified(name: str) -> datetime:
    """When it was last stored; now for a file that is gone meanwhile."""
    try:
        return default_storage.get_modified_time(name)
    except FileNotFoundError:
        return timezone.now()


def _stored() -> Iterator[str]:
    try:
        folders, _ = default_storage.listdir(FOLDER)
    except FileNotFoundError:
        return
    for folder in folders:
        yield from (name for name in default_storage.listdir(f"{FOLDER}/{folder}")[1] if _SHA256.fullmatch(name))


def _is_referenced(sha256: str) -> bool:
    return (
        Document.objects.filter(original=sha256).exists()
        or IndexItem.objects.filter(original=sha256, state=ItemState.PENDING).exists()
    )
