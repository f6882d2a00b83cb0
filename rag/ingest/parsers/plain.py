"""Plain text: paragraphs are what blank lines part."""

from __future__ import annotations

import re

from rag.ingest.builder import DocumentBuilder
from rag.ingest.encoding import clean, decode
from rag.ingest.types import BlockKind, ParsedDocument, ParseRequest

_BLANK_LINES = re.compile(r"\n[^\S\n]*(?:\n[^\S\n]*)+")
_LIST_ITEM = re.compile(r"[^\S\n]*(?:[-*+•‣·]|\(?\w{1,3}[.)])\s+\S")


def parse(request: ParseRequest) -> list[ParsedDocument]:
    builder = DocumentBuilder(request)
    add_plain_text(builder, decode(request.data, request.name))
    return [builder.build()]


def add_plain_text(builder: DocumentBuilder, text: str) -> None:
    """Append `text` paragraph by paragraph; a paragraph whose every line starts like an item is a list."""
    for paragraph in _BLANK_LINES.split(clean(text)):
        lines = [line for line in paragraph.split("\n") if line.strip()]
        is_list = len(lines) > 1 and all(_LIST_ITEM.match(line) for line in lines)
        builder.add(BlockKind.LIST if is_list else BlockKind.PARAGRAPH, paragraph)
