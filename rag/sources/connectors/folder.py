"""A folder of this machine, or one that is mounted here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings

from rag.ingest.discover import DiscoverError, FoundFile, discover
from rag.sources import options as checks
from rag.sources.permitted import permitted_folder
from rag.sources.types import Event, Found, Known, LeftOut, Place, Same, SourceError, Unreadable

_UNREADABLE = "cannot be read"


class FolderConnector:
    """Files by the rules of ``manage.py index``; a file whose time and size are the same is not read."""

    kind = "folder"
    option_help: Mapping[str, str] = checks.SELECTION_HELP

    def checked_location(self, location: str) -> str:
        return str(permitted_folder(location))

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return checks.checked(options, checks.SELECTION)

    def events(self, place: Place, known: Mapping[str, Known]) -> Iterator[Event]:
        root = permitted_folder(place.location)  # it may lead elsewhere by now, or be closed
        if not root.is_dir():
            raise SourceError(f"There is no folder {place.location}. Is it mounted?")
        selection = checks.Selection(place.options)
        try:
            entries = discover([root], max_bytes=settings.RAG_DOCUMENT_MAX_BYTES)
        except DiscoverError as error:
            raise SourceError(str(error)) from error
        for entry in entries:
            path = entry.path.relative_to(root).as_posix()
            if isinstance(entry, FoundFile):
                if not selection.takes(path):
                    yield LeftOut("is not selected")
                    continue
                try:
                    status = entry.path.stat()
                except OSError as error:
                    yield Unreadable(path, f"can't be read ({error.strerror})")
                    continue
                revision = f"{status.st_mtime_ns}-{status.st_size}"
                seen = known.get(path)
                if seen is not None and seen.revision == revision:
                    yield Same(path)
                else:
                    yield Found(path, entry.path, revision, address=path)
            elif path == ".":
                raise SourceError(f"{place.location} {entry.reason}.")
            elif entry.reason.startswith(_UNREADABLE):
                yield Unreadable(path, entry.reason)
                yield Unreadable(f"{path}/", entry.reason)
            else:
                yield LeftOut(entry.reason)
