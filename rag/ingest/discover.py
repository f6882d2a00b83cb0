"""Which files of the folders given are documents, in a stable order, with a reason for each that is not."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

from rag.ingest.formats import media_type_of_name
from rag.ingest.types import IngestError, ParseLimits

# Later ones win, as does the file in the nearest folder.
IGNORE_FILES = (".gitignore", ".ignore", ".zenglowignore")
MAX_DOCUMENT_ID_CHARACTERS = 512
_MAX_BYTES = ParseLimits().input_bytes
_MAX_IGNORE_FILE_BYTES = 1 << 20
# Never documents of the folder's owner, whether ignored or not. Hidden folders are left out anyway.
_SKIPPED_FOLDERS = frozenset({"CVS", "_darcs", "__pycache__", "node_modules"})
_VIRTUAL_ENVIRONMENT_MARK = "pyvenv.cfg"


class DiscoverError(IngestError):
    """A path that was asked for cannot be indexed."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to be indexed.

    `root` is the path it was found under, absolute; `document_id` is the name of that folder and the path below it,
    with slashes and in NFC. `media_type` is None where only the content can tell.
    """

    path: Path
    root: Path
    document_id: str
    media_type: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file or folder left out; `reason` is the same for all files of one kind, so that they can be counted."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class _Ignore:
    """The ignore files of one folder, which speak about paths below it."""

    folder: Path
    patterns: GitIgnoreSpec

    def decide(self, path: Path, *, is_folder: bool) -> bool | None:
        """Whether `path` is ignored; None if nothing here is said about it."""
        relative = path.relative_to(self.folder).as_posix()
        return self.patterns.check_file(f"{relative}/" if is_folder else relative).include


def discover(paths: Sequence[Path], *, max_bytes: int = _MAX_BYTES) -> Iterator[FoundFile | SkippedFile]:
    """Walks files and folders, respecting ignore files; each file comes once.

    Hidden files, version control, caches and virtual environments are passed over in silence; a file that was named
    itself is never ignored. Raises `DiscoverError` at once for a path that does not exist, and for two folders of the
    same name, whose documents could not be told apart.
    """
    roots = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100 (keeps the name of a symbolic link)
    names: dict[str, Path] = {}
    for root in dict.fromkeys(roots):
        if not os.path.lexists(root):
            raise DiscoverError(f"{root} does not exist; check the path.")
        other = names.setdefault(root.name, root)
        if other != root:
            raise DiscoverError(
                f"{other} and {root} have the same name, so their documents would get the same ids; "
                "index them into different collections or rename one."
            )
    return _walk_all(list(names.values()), max_bytes)


def _walk_all(roots: Sequence[Path], max_bytes: int) -> Iterator[FoundFile | SkippedFile]:
    seen: set[Path] = set()
    for root in roots:
        found = _walk(root, max_bytes) if root.is_dir() else iter([_file(root, root, max_bytes)])
        for entry in found:
            if entry.path not in seen:
                seen.add(entry.path)
                yield entry


def _walk(root: Path, max_bytes: int) -> Iterator[FoundFile | SkippedFile]:
    # Folders still to be read, the next one last, each with the ignore files above it.
    pending: list[tuple[Path, tuple[_Ignore, ...]]] = [(root, _ignores_above(root))]
    while pending:
        path, ignores = pending.pop()
        if not path.is_dir() or (path.is_symlink() and path != root):
            yield _file(path, root, max_bytes)
            continue
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield SkippedFile(path, f"cannot be read ({error.strerror})")
            continue
        names = {entry.name for entry in entries}
        if _VIRTUAL_ENVIRONMENT_MARK in names:
            continue
        own = _read_ignore_files(path, names)
        ignores = (*ignores, own) if own is not None else ignores
        for entry in reversed(entries):
            is_folder = entry.is_dir(follow_symlinks=False)
            if not _is_passed_over(entry.name, is_folder=is_folder) and not _is_ignored(
                path / entry.name, ignores, is_folder=is_folder
            ):
                pending.append((path / entry.name, ignores))


def _is_passed_over(name: str, *, is_folder: bool) -> bool:
    return name.startswith(".") or (is_folder and name in _SKIPPED_FOLDERS)


def _is_ignored(path: Path, ignores: Sequence[_Ignore], *, is_folder: bool) -> bool:
    decisions = (ignore.decide(path, is_folder=is_folder) for ignore in reversed(ignores))
    return next((decision for decision in decisions if decision is not None), False)


def _ignores_above(root: Path) -> tuple[_Ignore, ...]:
    """Those of the folders above, up to the top of the repository, unless they ignore `root` as a whole."""
    above: list[_Ignore] = []
    for folder in root.parents if not (root / ".git").exists() else ():
        own = _read_ignore_files(folder, None)
        if own is not None:
            above.append(own)
        if (folder / ".git").exists():
            found = tuple(reversed(above))
            return () if _is_ignored(root, found, is_folder=True) else found
    return ()  # not in a repository


def _read_ignore_files(folder: Path, names: set[str] | None) -> _Ignore | None:
    lines: list[str] = []
    for name in IGNORE_FILES:
        if names is None or name in names:
            try:
                with (folder / name).open("rb") as file:
                    lines += file.read(_MAX_IGNORE_FILE_BYTES).decode("utf-8", "replace").splitlines()
            except OSError:
                continue
    patterns = [line for line in lines if _is_pattern(line)]
    return _Ignore(folder, GitIgnoreSpec.from_lines(patterns)) if patterns else None


def _is_pattern(line: str) -> bool:
    """As git does, lines that are no pattern are passed over."""
    try:
        return any(pattern.include is not None for pattern in GitIgnoreSpec.from_lines([line]).patterns)
    except ValueError:
        return False


def _file(path: Path, root: Path, max_bytes: int) -> FoundFile | SkippedFile:
    is_named_itself = path == root
    below = "" if is_named_itself else f"/{path.relative_to(root).as_posix()}"
    document_id = unicodedata.normalize("NFC", f"{root.name}{below}".lstrip("/"))
    try:
        status = path.stat() if is_named_itself else path.lstat()
    except OSError as error:
        return SkippedFile(path, f"cannot be read ({error.strerror})")
    media_type = media_type_of_name(path.name)
    reason = None
    if stat.S_ISLNK(status.st_mode):
        reason = "is a symbolic link; name its target to index it"
    elif not stat.S_ISREG(status.st_mode):
        reason = "is not a regular file"
    elif media_type is None and not is_named_itself:
        reason = f"{path.suffix.lower()!r} files cannot be read" if path.suffix else "has no extension"
    elif status.st_size == 0:
        reason = "is empty"
    elif status.st_size > max_bytes:
        reason = f"is larger than {max_bytes / (1 << 20):g} MB"
    elif not document_id.isprintable() or not _is_utf8(document_id):
        reason = "has a name that is not printable text"
    elif len(document_id) > MAX_DOCUMENT_ID_CHARACTERS:
        reason = f"has a path of more than {MAX_DOCUMENT_ID_CHARACTERS} characters"
    if reason is not None:
        return SkippedFile(path, reason)
    return FoundFile(path, root, document_id, media_type, status.st_size)


def _is_utf8(name: str) -> bool:
    """File names that are not UTF-8 arrive with lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
