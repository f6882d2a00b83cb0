"""What connectors and `sync` tell each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


class SourceError(Exception):
    """A place can't be read as a whole. Its text says what to do; nothing is removed on account of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look. ``options`` have passed `Connector.checked_options`; ``secret`` is the text of its secret file."""

    name: str
    location: str
    options: Mapping[str, Any]
    folder: Path
    """Where the connector may keep what it needs between two times, such as a clone."""
    secret: str = ""


@dataclass(frozen=True, slots=True)
class Known:
    """What was found at a path the last time: whatever tells that it is the same, and where it led."""

    revision: str
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A document that is new or may have changed. ``address`` is what readers see as its source."""

    path: str
    content: bytes | Path
    revision: str
    address: str
    media_type: str = ""
    external_url: str | None = None
    links: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Same:
    """A document that is what it was, so that it need not be read. ``revision`` where it is written otherwise now."""

    path: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document, or all below a path that ends with a slash, that can't be read this time: it has not vanished."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something that is no document; ``reason`` is the same for all of its kind, so that they can be counted."""

    reason: str


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The place was not looked through to its end: what was not seen has not vanished."""

    reason: str


Event = Found | Same | Unreadable | LeftOut | Incomplete


class Connector(Protocol):
    """A kind of place.

    ``checked_location`` and ``checked_options`` return what is to be kept and raise `InvalidRequest`; they ask no
    server. ``events`` tells of everything that is there, each path once; what it does not tell of has vanished. It
    raises `SourceError`. A ``known`` path whose revision is the same need not be read again.
    """

    kind: str
    option_help: Mapping[str, str]

    def checked_location(self, location: str) -> str: ...

    def checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]: ...

    def events(self, place: Place, known: Mapping[str, Known]) -> Iterator[Event]: ...


@dataclass(slots=True)
class Tally:
    """What a look at a place came to."""

    found: int = 0
    same: int = 0
    gone: int = 0
    unreadable: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    incomplete: str = ""
