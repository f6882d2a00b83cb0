"""What parsing and chunking hand on: plain frozen values and the errors a file can cause.

    IngestError (ValueError)
    ├── UnsupportedFormatError   the kind of file cannot be read here
    ├── ParseError               the file is damaged, encrypted or not what it says it is
    ├── ParseLimitError          reading it took more than it may: `kind` says of what
    └── EmptyDocumentError       it was read, and holds no text

Every message is one sentence for the person who owns the file and says what to do next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

LimitKind = Literal["time", "memory", "size", "pages"]


class IngestError(ValueError):
    """A file could not be turned into documents; `str(error)` is meant for its owner."""


class UnsupportedFormatError(IngestError):
    """The kind of file cannot be read here."""


class ParseError(IngestError):
    """The file is damaged, encrypted or not what it says it is."""

    @classmethod
    def of_fault(cls, name: str, fault: Exception) -> ParseError:
        """For whatever else a library raises over a broken file; its own words are not for readers."""
        if isinstance(fault, RecursionError):
            return cls(f"{name} is nested too deeply to be read; save it in a simpler form.")
        return cls(
            f"{name} is damaged or not a proper file of its kind ({type(fault).__name__}); "
            "save it again in the program that made it."
        )


class ParseLimitError(IngestError):
    """Reading the file took more time, memory, text or pages than it may."""

    def __init__(self, message: str, kind: LimitKind) -> None:
        super().__init__(message)
        self.kind: LimitKind = kind


class EmptyDocumentError(IngestError):
    """The file was read, and holds no text."""


class BlockKind(StrEnum):
    HEADING = "heading"
    PARAGRAPH = "paragraph"
    LIST = "list"
    TABLE = "table"
    CODE = "code"


MAX_HEADING_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Block:
    """One structural piece of a document: `ParsedDocument.text[start:end]`.

    `level` is 1 (outermost) to 6 for headings and None otherwise; the heading's words are the block's text.
    `page` counts from 1 (a slide is a page). `symbol` names the definition a piece of source code belongs to,
    outermost first: ("Parser", "parse").
    """

    kind: BlockKind
    start: int
    end: int
    level: int | None = None
    page: int | None = None
    symbol: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ParsedDocument:
    """One document as text with its structure.

    `text` is Unicode NFC with "\\n" line ends, and holds neither NUL nor lone surrogates, so PostgreSQL can
    store it. `blocks` are in order and don't overlap. `metadata` holds JSON values only. `identifier` is
    the document's own id where one file holds several documents (JSON Lines), None elsewhere. `text` is
    empty only for such a document.
    """

    title: str | None
    text: str
    media_type: str
    blocks: tuple[Block, ...]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    identifier: str | None = None

    def __post_init__(self) -> None:
        position = 0
        for block in self.blocks:
            if not position <= block.start < block.end <= len(self.text):
                raise ValueError(f"block {block} is out of order or outside a text of {len(self.text)} characters")
            position = block.end


@dataclass(frozen=True, slots=True)
class ChunkDraft:
    """One passage: `text == document.text[start:end]`, without white space at its ends save the first
    indentation.

    `heading_path` holds the headings (or code symbols) it stands under, outermost first; `page` is where it
    starts.
    """

    ordinal: int
    text: str
    heading_path: tuple[str, ...]
    page: int | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ParseLimits:
    """What reading one file may take. Beyond any of these the file fails with `ParseLimitError`.

    `unpacked_bytes` bounds what a compressed container (DOCX, XLSX, PPTX, EPUB) may hold; `text_characters`
    bounds the text of all documents of the file together; `memory_bytes` bounds the address space of the
    parsing process, of which Python and the parsers themselves take about 200 MB.
    """

    wall_s: float = 60.0
    cpu_s: float = 30.0
    memory_bytes: int = 1 << 30
    input_bytes: int = 64 << 20
    unpacked_bytes: int = 256 << 20
    text_characters: int = 20_000_000
    pages: int = 5_000


@dataclass(frozen=True, slots=True)
class JsonlFields:
    """Which fields of a JSON Lines record mean what; the first `identifier` field present wins."""

    identifier: tuple[str, ...] = ("_id", "id")
    title: str = "title"
    text: str = "text"
    metadata: str = "metadata"


@dataclass(frozen=True, slots=True)
class ParseRequest:
    """One file to be parsed: what every parser receives."""

    data: bytes
    name: str
    media_type: str
    limits: ParseLimits = ParseLimits()
    jsonl: JsonlFields = JsonlFields()
