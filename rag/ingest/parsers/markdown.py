"""Markdown (CommonMark with tables, strikethrough and front matter), rendered as plain text with its
structure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from markdown_it import MarkdownIt
from markdown_it.token import Token

from rag.ingest.builder import DocumentBuilder
from rag.ingest.encoding import clean, decode
from rag.ingest.types import BlockKind, ParsedDocument, ParseRequest

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_FRONT_MATTER_TITLE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.M)
_CONTAINER_DEPTH = 100


def parse(request: ParseRequest) -> list[ParsedDocument]:
    text = clean(decode(request.data, request.name))
    title = None
    front_matter = _FRONT_MATTER.match(text)
    if front_matter is not None:
        declared = _FRONT_MATTER_TITLE.search(front_matter.group(1))
        title = declared.group(2) if declared else None
        text = text[front_matter.end() :]
    builder = DocumentBuilder(request)
    add_markdown(builder, text)
    return [builder.build(title)]


@cache
def _markdown() -> MarkdownIt:
    # The preset's maximum nesting of 20 silently drops what lies deeper.
    return MarkdownIt("commonmark", {"maxNesting": _CONTAINER_DEPTH}).enable(["table", "strikethrough"])


def add_markdown(builder: DocumentBuilder, text: str) -> None:
    tokens = iter(_markdown().parse(text))
    for token in tokens:
        if token.type == "heading_open":
            builder.heading(_inline_text(next(tokens)), int(token.tag[1:]))
        elif token.type == "inline":
            builder.paragraph(_inline_text(token))
        elif token.type in {"fence", "code_block"}:
            builder.add(BlockKind.CODE, token.content)
        elif token.type == "html_block":
            _add_html(builder, token.content)
        elif token.type in {"bullet_list_open", "ordered_list_open"}:
            builder.add(BlockKind.LIST, "\n".join(_list_lines(token, tokens)))
        elif token.type == "table_open":
            builder.add(BlockKind.TABLE, "\n".join(_table_rows(tokens)))


def _add_html(builder: DocumentBuilder, html: str) -> None:
    from rag.ingest.parsers.html import add_html  # needed by few Markdown files

    add_html(builder, html)


def _inline_text(token: Token) -> str:
    """The words a reader sees: link texts, image descriptions, code; no addresses and no markup."""
    parts: list[str] = []
    pending = list(reversed(token.children or ()))
    while pending:
        child = pending.pop()
        if child.type in {"softbreak", "hardbreak"}:
            parts.append("\n")
        elif child.type == "image":
            pending.extend(reversed(child.children or ()))
        elif child.type in {"text", "code_inline", "text_special"}:
            parts.append(child.content)
        elif child.type == "html_inline" and re.match(r"<br\b", child.content, re.I):
            parts.append("\n")
    return "".join(parts)


def _list_lines(opening: Token, tokens: Iterator[Token]) -> Iterator[str]:
    """The lines of one list, nested ones indented, up to its closing token."""
    # One loop with a stack rather than recursion: nesting is the author's choice.
    counters: list[int | None] = [_first_number(opening)]
    is_item_start = False
    for token in tokens:
        indent = "  " * (len(counters) - 1)
        if token.type in {"bullet_list_open", "ordered_list_open"}:
            counters.append(_first_number(token))
        elif token.type in {"bullet_list_close", "ordered_list_close"}:
            counters.pop()
            if not counters:
                return
        elif token.type == "list_item_open":
            is_item_start = True
        elif token.type in {"inline", "fence", "code_block", "html_block"}:
            body = _inline_text(token) if token.type == "inline" else token.content
            lines = [line for line in body.split("\n") if line.strip()]
            for line in lines:
                if is_item_start:
                    number = counters[-1]
                    marker = "- " if number is None else f"{number}. "
                    if number is not None:
                        counters[-1] = number + 1
                    yield f"{indent}{marker}{line}"
                    is_item_start = False
                else:
                    yield f"{indent}  {line}"


def _first_number(opening: Token) -> int | None:
    if opening.type != "ordered_list_open":
        return None
    return int(opening.attrGet("start") or 1)


def _table_rows(tokens: Iterator[Token]) -> Iterator[str]:
    cells: list[str] = []
    for token in tokens:
        if token.type == "table_close":
            return
        if token.type == "inline":
            cells.append(" ".join(_inline_text(token).split()))
        elif token.type == "tr_close":
            yield " | ".join(cells)
            cells = []
