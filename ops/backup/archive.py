"""The file format: a plain tar of ``database.dump``, ``files/…`` and, last, ``manifest.json`` with every checksum.

Reading trusts nothing: an archive may come from anywhere. Its checksums show damage, not who made it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from ops.files import received

MANIFEST = "manifest.json"
DATABASE = "database.dump"
FILES = "files/"
FORMAT = "zenglow-backup"
FORMAT_VERSION = 1
MANIFEST_MAX_BYTES = 256 * 1024 * 1024
NAME_MAX_CHARACTERS = 1024

_COPY_BYTES = 1024 * 1024


class BackupError(Exception):
    """A backup can't be made or used. The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive, as found or as promised by the manifest."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """One file to be archived. ``open`` may raise ``FileNotFoundError``: it has gone meanwhile and is left out."""

    name: str
    open: Callable[[], IO[bytes]]
    size_bytes: Callable[[], int]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself: ``facts`` about the installation, and its members by name."""

    facts: Mapping[str, Any]
    members: Mapping[str, Member]

    @property
    def files(self) -> list[str]:
        """The names of the storage's files, without their prefix, sorted."""
        return sorted(name.removeprefix(FILES) for name in self.members if name.startswith(FILES))


def write(target: Path, sources: Iterable[Source], facts: Mapping[str, Any]) -> Manifest:
    """Write an archive that only its owner may read. It gets its name when it is complete and durable.

    Raises `BackupError`; nothing is left behind then.
    """
    if target.exists():
        raise BackupError(f"{target} exists already: choose another name, or move it away.")
    try:
        descriptor, draft_name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise BackupError(f"{target.parent} can't be written: {error.strerror}.") from error
    draft = Path(draft_name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                members = {source.name: member for source in sources if (member := _add(archive, source))}
                manifest = Manifest(facts, members)
                _add_bytes(archive, MANIFEST, _encoded(manifest))
            stream.flush()
            os.fsync(stream.fileno())
        # A link, not a rename: it fails where a file of that name has appeared meanwhile.
        os.link(draft, target)
    except FileExistsError as error:
        raise BackupError(f"{target} exists already: choose another name, or move it away.") from error
    except OSError as error:
        raise BackupError(f"The backup could not be written: {error.strerror or error}.") from error
    finally:
        draft.unlink(missing_ok=True)
    return manifest


def inspect(source: Path) -> Manifest:
    """Read the whole archive and return its manifest once every checksum agrees. Raises `BackupError`."""
    found: dict[str, Member] = {}
    manifest: Manifest | None = None
    with _reading(source) as archive:
        for entry in archive:
            _check_entry(entry, found)
            with _content(archive, entry) as content:
                if entry.name == MANIFEST:
                    manifest = _decoded(content.read(MANIFEST_MAX_BYTES + 1))
                    found[MANIFEST] = Member(entry.size, "")
                else:
                    found[entry.name] = Member(entry.size, _sha256(content))
    found.pop(MANIFEST, None)
    if manifest is None:
        raise BackupError(f"{source} is not a complete backup: it has no {MANIFEST}.")
    _compare(manifest.members, found)
    return manifest


def extract(source: Path, manifest: Manifest, receive: Callable[[str, Path], None], folder: Path) -> None:
    """Hand each member to ``receive(name, path)``, in the archive's order; the file at ``path`` is the receiver's.

    The files are written durably into ``folder``; checksums are compared once more, as the archive may have been
    exchanged. Raises `BackupError`.
    """
    with _reading(source) as archive:
        for entry in archive:
            if entry.name == MANIFEST:
                continue
            promised = manifest.members.get(entry.name)
            with _content(archive, entry) as content:
                hashing = _Hashing(content)
                with received(hashing.blocks(), folder) as path:
                    if promised is None or promised.sha256 != hashing.hexdigest():
                        raise BackupError(f"{source} has changed while it was read.")
                    receive(entry.name, path)


def _add(archive: tarfile.TarFile, source: Source) -> Member | None:
    try:
        stream = source.open()
    except FileNotFoundError:
        return None
    with stream:
        entry = tarfile.TarInfo(source.name)
        entry.size = source.size_bytes()
        entry.mode = 0o600
        hashing = _Hashing(stream)
        archive.addfile(entry, hashing)  # type: ignore[arg-type]
        return Member(entry.size, hashing.hexdigest())


def _add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    entry.mode = 0o600
    archive.addfile(entry, BytesIO(content))


class _Hashing:
    """A stream that remembers the hash of what was read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._digest.update(block)
        return block

    def blocks(self) -> Iterator[bytes]:
        while block := self.read(_COPY_BYTES):
            yield block

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


@contextmanager
def _reading(source: Path) -> Iterator[tarfile.TarFile]:
    """The archive, uncompressed as `write` makes it; every fault of its structure becomes a `BackupError`."""
    try:
        with tarfile.open(source, mode="r:") as archive:
            yield archive
    except tarfile.TarError as error:
        raise BackupError(f"{source} is not a backup, or it is damaged: {error}.") from error
    except OSError as error:
        raise BackupError(f"{source} can't be read: {error.strerror or error}.") from error
    except (ValueError, OverflowError, EOFError, RecursionError) as error:
        raise BackupError(f"{source} is not a backup, or it is damaged.") from error


def _check_entry(entry: tarfile.TarInfo, found: Mapping[str, Member]) -> None:
    """Only plain files with harmless names, each once. A sparse file would be larger than what is in the archive."""
    if entry.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or entry.sparse is not None:
        raise BackupError(f"The backup holds something that is no plain file: {entry.name[:100]!r}.")
    if not _is_harmless(entry.name):
        raise BackupError(f"The backup holds a file with a name that it may not have: {entry.name[:100]!r}.")
    if entry.name in found:
        raise BackupError(f"The backup holds {entry.name[:100]!r} twice.")


def _is_harmless(name: str) -> bool:
    if name in {MANIFEST, DATABASE}:
        return True
    parts = name.removeprefix(FILES).split("/")
    return (
        name.startswith(FILES)
        and len(name) <= NAME_MAX_CHARACTERS
        and name.isprintable()
        and "\\" not in name
        and not any(part == "" or part.startswith(".") for part in parts)
    )


def _content(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(entry)
    if content is None:
        raise BackupError(f"The backup holds something that is no plain file: {entry.name[:100]!r}.")
    return content


def _sha256(content: IO[bytes]) -> str:
    hashing = _Hashing(content)
    for _ in hashing.blocks():
        pass
    return hashing.hexdigest()


def _compare(promised: Mapping[str, Member], found: Mapping[str, Member]) -> None:
    if DATABASE not in promised:
        raise BackupError(f"The backup holds no {DATABASE}.")
    for name in sorted(promised.keys() | found.keys()):
        if name not in found:
            raise BackupError(f"The backup is damaged: {name[:100]!r} is missing.")
        if name not in promised:
            raise BackupError(f"The backup is damaged: {name[:100]!r} is not in its manifest.")
        if promised[name] != found[name]:
            raise BackupError(f"The backup is damaged: {name[:100]!r} has another checksum.")


def _encoded(manifest: Manifest) -> bytes:
    members = {name: {"size_bytes": m.size_bytes, "sha256": m.sha256} for name, m in sorted(manifest.members.items())}
    body = {"format": FORMAT, "format_version": FORMAT_VERSION, "facts": dict(manifest.facts), "members": members}
    return json.dumps(body, indent=1).encode()


def _decoded(content: bytes) -> Manifest:
    if len(content) > MANIFEST_MAX_BYTES:
        raise BackupError(f"The backup's {MANIFEST} is larger than {MANIFEST_MAX_BYTES} bytes.")
    try:
        body = json.loads(content)
        if body["format"] != FORMAT:
            raise ValueError
        version, facts, listed = body["format_version"], dict(body["facts"]), dict(body["members"])
        members = {name: Member(int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BackupError(f"The backup's {MANIFEST} can't be read.") from error
    if version != FORMAT_VERSION:
        raise BackupError(f"The backup has the format {str(version)[:20]}; this ZenGlow reads {FORMAT_VERSION}.")
    return Manifest(facts, members)
