"""The files of model versions, addressed by the sha256 of their content and kept in Django's default storage.

A file is complete before its name exists, and its row is written after it. So a crash leaves, at worst, a file
without a row, which the next `put` of the same content adopts and `collect_garbage` removes.

ArtifactError
├── ArtifactMissingError    nothing is stored under that hash
├── ArtifactCorruptError    what is stored has another hash
├── ArtifactTooLargeError   above ``REGISTRY_ARTIFACT_MAX_BYTES``
└── ArtifactStorageError    the storage failed, such as a full disk
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from django.conf import settings
from django.core.files.storage import default_storage
from django.db import connection, transaction

from models_registry import clock
from models_registry.locks import lock_until_commit
from models_registry.models import Artifact, ModelVersion
from ops.files import delete_abandoned, incoming_folder, is_local, move_into_storage, received, storage_faults

FOLDER = "artifacts"
GRACE = timedelta(hours=1)
"""How long an unreferenced artifact is spared: between `put` and the version that will name it."""

_COPY_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ArtifactError(Exception):
    """An artifact can't be stored or used. The message is one sentence for an operator."""


class ArtifactMissingError(ArtifactError):
    """Nothing is stored under that hash."""


class ArtifactCorruptError(ArtifactError):
    """What is stored does not have the hash it is named by."""


class ArtifactTooLargeError(ArtifactError):
    """The file is larger than ``REGISTRY_ARTIFACT_MAX_BYTES``."""


class ArtifactStorageError(ArtifactError):
    """The storage failed."""


class ByteStream(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Garbage:
    """An unreferenced artifact. ``filename`` is empty for a file that never got its row."""

    sha256: str
    filename: str
    size_bytes: int


def put(source: bytes | Path | ByteStream, filename: str) -> Artifact:
    """Store a file and return its artifact; content that is stored already is only noted again.

    ``filename`` is for people; only its last part is kept. Raises `ArtifactTooLargeError` and
    `ArtifactStorageError`; nothing is kept then.
    """
    with _opened(source) as stream, _received(stream) as (path, sha256, size_bytes), transaction.atomic():
        lock_until_commit(f"artifact:{sha256}")
        with _faults_told("stored"):
            if not _is_stored_intact(sha256):
                move_into_storage(path, _name(sha256))
        # By the database's clock, which is the collector's: a host whose own goes wrong loses no grace.
        stored_at = clock.now()
        artifact, _ = Artifact.objects.update_or_create(
            sha256=sha256,
            defaults={"stored_at": stored_at},
            create_defaults={"size_bytes": size_bytes, "filename": _displayed(filename), "stored_at": stored_at},
        )
    return artifact


def local_path(sha256: str) -> Path:
    """A readable file on this machine with exactly this content; for libraries that open files themselves.

    The content is hashed the first time a process asks, and again only when the file has changed since. A storage
    that isn't local is copied into the data folder first. Raises `ArtifactMissingError`, `ArtifactCorruptError`.
    """
    _check_name(sha256)
    stored = _local_storage_path(sha256)
    if stored is not None:
        _verified.check(stored, sha256)
        return stored
    cached = Path(settings.ZENGLOW_DATA_DIR) / "cache" / FOLDER / sha256[:2] / sha256
    try:
        _verified.check(cached, sha256)
    except ArtifactError:
        _download(sha256, cached)
        _verified.check(cached, sha256)
    return cached


def open_verified(sha256: str) -> BinaryIO:
    """The content, opened for reading, with the guarantees of `local_path`."""
    return local_path(sha256).open("rb")


def is_stored(sha256: str) -> bool:
    """Whether the storage has a file of that name; its content is not looked at."""
    return bool(default_storage.exists(_name(sha256)))


def require(digests: Iterable[str]) -> None:
    """Hold these artifacts until the current transaction ends, so that they can be referred to.

    Raises `ArtifactMissingError` when one has no row.
    """
    for sha256 in sorted(set(digests)):
        _check_name(sha256)
        lock_until_commit(f"artifact:{sha256}")
        if not Artifact.objects.filter(sha256=sha256).exists():
            raise ArtifactMissingError(f"No artifact {sha256[:12]}… is stored: put it first.")


def collect_garbage(*, dry_run: bool, grace: timedelta = GRACE) -> list[Garbage]:
    """Delete, or with ``dry_run`` only list, what no model version refers to and nobody has stored within ``grace``.

    Half-received files of processes that died are deleted as well, without being listed.
    """
    limit = clock.now() - grace
    known = {artifact.sha256: artifact for artifact in Artifact.objects.filter(stored_at__lt=limit)}
    with_row = set(Artifact.objects.values_list("sha256", flat=True))
    referenced = {
        digest
        for artifacts in ModelVersion.objects.values_list("artifacts", flat=True)
        for digest in artifacts.values()
    }
    found = [Garbage(a.sha256, a.filename, a.size_bytes) for a in known.values() if a.sha256 not in referenced]
    found += [
        Garbage(sha256, "", default_storage.size(_name(sha256)))
        for sha256 in _stored_digests()
        if sha256 not in with_row and default_storage.get_modified_time(_name(sha256)) < limit
    ]
    found.sort(key=lambda garbage: garbage.sha256)
    if dry_run:
        return found
    delete_abandoned()
    return [garbage for garbage in found if _delete(garbage.sha256, limit)]


def _delete(sha256: str, limit: datetime) -> bool:
    """Whether the artifact was still garbage once it was locked, and is gone now."""
    with transaction.atomic():
        lock_until_commit(f"artifact:{sha256}")
        row = Artifact.objects.filter(sha256=sha256).first()
        if (row is not None and row.stored_at >= limit) or _is_referenced(sha256):
            return False
        # The file goes first: a crash here leaves a row without a file, which the next `put` or collection repairs.
        default_storage.delete(_name(sha256))
        if row is not None:
            row.delete()
    return True


def _is_referenced(sha256: str) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM models_registry_modelversion, jsonb_each_text(artifacts) AS entry"
            " WHERE entry.value = %s)",
            [sha256],
        )
        return bool(cursor.fetchone()[0])


def _name(sha256: str) -> str:
    return f"{FOLDER}/{sha256[:2]}/{sha256}"


def _displayed(filename: str) -> str:
    return PurePosixPath(filename.replace("\\", "/")).name[-200:] or "unnamed"


def _check_name(sha256: str) -> None:
    if not _SHA256.fullmatch(sha256):
        raise ArtifactMissingError(f"'{sha256[:80]}' is not the sha256 of an artifact.")


def _local_storage_path(sha256: str) -> Path | None:
    """Where the default storage keeps the file, if it keeps files on this machine."""
    return Path(default_storage.path(_name(sha256))) if is_local() else None


def _stored_digests() -> Iterator[str]:
    """The hashes of every stored file, with or without a row."""
    try:
        folders, _ = default_storage.listdir(FOLDER)
    except FileNotFoundError:
        return
    for folder in folders:
        yield from (name for name in default_storage.listdir(f"{FOLDER}/{folder}")[1] if _SHA256.fullmatch(name))


@contextmanager
def _opened(source: bytes | Path | ByteStream) -> Iterator[ByteStream]:
    if isinstance(source, bytes):
        yield BytesIO(source)
    elif isinstance(source, Path):
        try:
            stream = source.open("rb")
        except OSError as error:
            raise ArtifactMissingError(f"{source} can't be read: {error.strerror}.") from error
        with stream:
            yield stream
    else:
        yield source


@contextmanager
def _received(stream: ByteStream) -> Iterator[tuple[Path, str, int]]:
    """The stream's whole content in a file of ours, durable, with its hash and size; removed when not moved away."""
    limit_bytes: int = settings.REGISTRY_ARTIFACT_MAX_BYTES
    digest = hashlib.sha256()
    size_bytes = 0

    def blocks() -> Iterator[bytes]:
        nonlocal size_bytes
        while block := stream.read(_COPY_BYTES):
            size_bytes += len(block)
            if size_bytes > limit_bytes:
                raise ArtifactTooLargeError(
                    f"The file is larger than {limit_bytes} bytes, the limit of REGISTRY_ARTIFACT_MAX_BYTES."
                )
            digest.update(block)
            yield block

    with ExitStack() as stack:
        try:
            path = stack.enter_context(received(blocks(), incoming_folder()))
        except storage_faults() as error:
            raise ArtifactStorageError(f"The file could not be stored: {_in_words(error)}.") from error
        yield path, digest.hexdigest(), size_bytes


@contextmanager
def _faults_told(done: str) -> Iterator[None]:
    """Around work with the storage: what it raises becomes an `ArtifactStorageError`."""
    try:
        yield
    except FileNotFoundError:
        raise
    except storage_faults() as error:
        raise ArtifactStorageError(f"The file could not be {done}: {_in_words(error)}.") from error


def _in_words(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _is_stored_intact(sha256: str) -> bool:
    try:
        if (path := _local_storage_path(sha256)) is not None:
            with path.open("rb") as content:
                return _digest(content) == sha256
        with default_storage.open(_name(sha256)) as content:
            return _digest(content) == sha256
    except FileNotFoundError:
        return False


def _download(sha256: str, target: Path) -> None:
    try:
        with _faults_told("read"):
            content = default_storage.open(_name(sha256))
    except FileNotFoundError:
        raise ArtifactMissingError(f"The storage has no artifact {sha256[:12]}….") from None
    with content, _received(content) as (path, received_sha256, _size_bytes):
        if received_sha256 != sha256:
            raise ArtifactCorruptError(f"The stored artifact {sha256[:12]}… has another content: put it again.")
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)


def _digest(content: ByteStream) -> str:
    digest = hashlib.sha256()
    while block := content.read(_COPY_BYTES):
        digest.update(block)
    return digest.hexdigest()


class _Verified:
    """Files whose content this process has hashed, with the state they had then."""

    def __init__(self) -> None:
        self._states: dict[Path, tuple[int, int, int]] = {}
        self._lock = threading.Lock()

    def check(self, path: Path, sha256: str) -> None:
        """Return when the file's content has this hash. Raises `ArtifactMissingError`, `ArtifactCorruptError`."""
        try:
            with path.open("rb") as content:
                status = os.fstat(content.fileno())
                state = (status.st_ino, status.st_size, status.st_mtime_ns)
                with self._lock:
                    if self._states.get(path) == state:
                        return
                if _digest(content) != sha256:
                    raise ArtifactCorruptError(
                        f"The stored artifact {sha256[:12]}… has another content: put it again, or restore a backup."
                    )
        except FileNotFoundError:
            raise ArtifactMissingError(f"The storage has no artifact {sha256[:12]}….") from None
        with self._lock:
            self._states[path] = state


_verified = _Verified()
