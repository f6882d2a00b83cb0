"""Collects the pieces a parser finds into one `ParsedDocument`, and keeps its promises in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rag.ingest.encoding import clean, clean_json
from rag.ingest.types import (
    MAX_HEADING_LEVEL,
    Block,
    BlockKind,
    EmptyDocumentError,
    ParsedDocument,
    ParseLimitError,
    ParseRequest,
)

_MAX_TITLE_CHARACTERS = 300


class DocumentBuilder:
    """Appends blocks of text, cleaned and separated by blank lines, and counts them against the limits."""

    def __init__(self, request: ParseRequest) -> None:
        self._request = request
        self._pieces: list[str] = []
        self._blocks: list[Block] = []
        self._length = 0

    def add(
        self,
        kind: BlockKind,
        text: str,
        *,
        level: int | None = None,
        page: int | None = None,
        symbol: tuple[str, ...] = (),
    ) -> None:
        """Append one block; text of white space alone is left out. Raises `ParseLimitError` (size)."""
        body = "\n".join(line.rstrip() for line in clean(text).split("\n")).strip("\n")
        if kind is not BlockKind.CODE:
            body = body.strip()
        if kind is BlockKind.HEADING:
            body = " ".join(body.split())
            level = min(max(level or 1, 1), MAX_HEADING_LEVEL)
        if not body.strip():
            return
        if self._pieces:
            self._pieces.append("\n\n")
            self._length += 2
        start = self._length
        self._pieces.append(body)
        self._length += len(body)
        check_text_size(self._length, self._request)
        self._blocks.append(Block(kind, start, self._length, level, page, symbol))

    def heading(self, text: str, level: int, page: int | None = None) -> None:
        self.add(BlockKind.HEADING, text, level=level, page=page)

    def paragraph(self, text: str, page: int | None = None) -> None:
        self.add(BlockKind.PARAGRAPH, text, page=page)

    @property
    def is_empty(self) -> bool:
        return not self._blocks

    def build(
        self,
        title: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        identifier: str | None = None,
        may_be_empty: bool = False,
        heading_is_title: bool = True,
    ) -> ParsedDocument:
        """The document so far; without a `title` its first heading is it, where `heading_is_title`.

        Raises `EmptyDocumentError`, unless it `may_be_empty`.
        """
        if not self._blocks and not may_be_empty:
            raise EmptyDocumentError(f"{self._request.name} holds no text; add text to it or leave it out.")
        text = "".join(self._pieces)
        if heading_is_title and (title is None or not title.strip()):
            headings = (block for block in self._blocks if block.kind is BlockKind.HEADING)
            first = next(headings, None)
            title = text[first.start : first.end] if first else None
        return ParsedDocument(
            title=clean_title(title),
            text=text,
            media_type=self._request.media_type,
            blocks=tuple(self._blocks),
            metadata=clean_json(dict(metadata or {})),
            identifier=identifier,
        )


def clean_title(title: str | None) -> str | None:
    """A title on one line and of bearable length, or None."""
    folded = " ".join(clean(title or "").split())
    return folded[:_MAX_TITLE_CHARACTERS].rstrip() or None


def check_text_size(characters: int, request: ParseRequest) -> None:
    """Raises `ParseLimitError` (size) if a file gives more text than it may."""
    if characters > request.limits.text_characters:
        raise ParseLimitError(
            f"{request.name} holds more than {request.limits.text_characters:,} characters of text; split it.",
            "size",
        )
