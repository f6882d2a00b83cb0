"""Putting files into Django's default storage whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, default_storage

ABANDONED_AFTER = timedelta(days=1)
"""Longer than anything takes to be received."""


def is_local() -> bool:
    """Whether the default storage keeps its files on this machine."""
    # Asked by type: Django's own in-memory storage has a `path` where there is no file.
    return isinstance(default_storage, FileSystemStorage)


def storage_faults() -> tuple[type[Exception], ...]:
    """What the default storage raises when it is full, away, or refuses."""
    if is_local():
        return (OSError,)
    try:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:  # another kind of storage: the part for S3 is not installed
        return (OSError,)
    return (OSError, Boto3Error, BotoCoreError, ClientError)


def incoming_folder() -> Path:
    """Where a file may be received before it is moved into the storage; made when it is not there.

    Beside the stored files where those are local, so that moving a file into place is one rename.
    """
    folder = (
        Path(default_storage.path(".incoming"))
        if is_local()
        else Path(settings.ZENGLOW_DATA_DIR) / "cache" / "incoming"
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def received(blocks: Iterable[bytes], folder: Path) -> Iterator[Path]:
    """The blocks as a new file in ``folder``, whole and durable; deleted at the end unless it was moved away.

    May raise ``OSError``, and what ``blocks`` raises; then nothing is left.
    """
    descriptor, name = tempfile.mkstemp(dir=folder)
    path = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(blocks)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)


def store(content: bytes, name: str) -> None:
    """Store ``content`` as ``name``, in place of what has that name. May raise ``OSError``."""
    with received([content], incoming_folder()) as path:
        move_into_storage(path, name)


def move_into_storage(path: Path, name: str) -> None:
    """Store a `received` file of `incoming_folder` as ``name``, in place of what has that name. May raise ``OSError``.

    Readers see the old file or the new one. A local file is durable when this returns.
    """
    if is_local():
        target = Path(default_storage.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
        _sync_folder(target.parent)
        return
    default_storage.delete(name)
    with path.open("rb") as content:
        default_storage.save(name, File(content))


def delete_abandoned() -> None:
    """Delete what processes that died have left half-received."""
    limit = time.time() - ABANDONED_AFTER.total_seconds()
    for path in incoming_folder().iterdir():
        if path.stat().st_mtime >= limit:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
