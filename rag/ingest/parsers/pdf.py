"""PDF, through PDFium: the text layer page by page, with the headings that the outline names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

import pypdfium2 as pdfium
import pypdfium2.raw as pdfium_raw

from rag.ingest.builder import DocumentBuilder
from rag.ingest.encoding import clean
from rag.ingest.types import EmptyDocumentError, ParsedDocument, ParseError, ParseLimitError, ParseRequest

# PDFium marks a hyphen at a line end, which only the layout put there, with this noncharacter.
_LAYOUT_HYPHEN = re.compile("[\ufffe\x02]\\s*")
_DIGITS = re.compile(r"\d+")
_WORDS = re.compile(r"\w+")
_MAX_HEADING_LINES = 3
_MAX_OUTLINE_ENTRIES = 5_000
_MAX_OUTLINE_DEPTH = 6
# A line at the top or bottom that stands on at least this share of the pages is a running title.
_RUNNING_SHARE = 0.6
_MIN_PAGES_FOR_RUNNING_TITLES = 4
# A line shorter than this share of a typical one, ending a sentence, ends its paragraph.
_SHORT_LINE = 0.8
_SENTENCE_END = (".", "!", "?", ":", ".”", '."', ".)")

Outline = dict[int, list[tuple[str, int]]]
"""Titles and levels of the outline's entries, by page number."""


def parse(request: ParseRequest) -> list[ParsedDocument]:
    try:
        document = pdfium.PdfDocument(request.data)
    except pdfium.PdfiumError as error:
        if pdfium_raw.FPDF_GetLastError() == pdfium_raw.FPDF_ERR_PASSWORD:
            raise ParseError(f"{request.name} is protected by a password; save it without one.") from None
        raise ParseError(f"{request.name} is not a complete PDF ({error}); download or export it again.") from None
    with document:
        if len(document) > request.limits.pages:
            raise ParseLimitError(
                f"{request.name} has {len(document):,} pages, more than {request.limits.pages:,}; split it up.", "pages"
            )
        pages = [_page_lines(document, index) for index in range(len(document))]
        outline = _outline(document)
        information = document.get_metadata_dict(skip_empty=True)
    running = _running_titles(pages)
    builder = DocumentBuilder(request)
    for number, lines in enumerate(pages, start=1):
        body = [line for i, line in enumerate(lines) if not _is_running(i, lines, running)]
        _add_page(builder, body, outline.get(number, []), number)
    if builder.is_empty:
        raise EmptyDocumentError(
            f"{request.name} holds no text, only pictures of it; run text recognition (OCR) on it first."
        )
    metadata = {"author": information["Author"]} if information.get("Author") else {}
    # The outline starts with the first chapter, seldom with the title.
    return [builder.build(information.get("Title"), metadata, heading_is_title=False)]


def _page_lines(document: pdfium.PdfDocument, index: int) -> list[str]:
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            text = text_page.get_text_bounded()
        finally:
            text_page.close()
    finally:
        page.close()
    return [line.strip() for line in clean(_LAYOUT_HYPHEN.sub("", text)).split("\n")]


def _outline(document: pdfium.PdfDocument) -> Outline:
    outline: Outline = {}
    for count, bookmark in enumerate(document.get_toc(max_depth=_MAX_OUTLINE_DEPTH)):
        if count >= _MAX_OUTLINE_ENTRIES:
            break
        destination = bookmark.get_dest()
        index = destination.get_index() if destination is not None else None
        title = " ".join(clean(bookmark.get_title()).split())
        if index is not None and title:
            outline.setdefault(index + 1, []).append((title, bookmark.level + 1))
    return outline


def _running_titles(pages: Sequence[Sequence[str]]) -> frozenset[str]:
    """Running heads and feet, page numbers aside: what stands first or last on most pages."""
    if len(pages) < _MIN_PAGES_FOR_RUNNING_TITLES:
        return frozenset()
    seen: Counter[str] = Counter()
    for lines in pages:
        written = [line for line in lines if line]
        seen.update({_without_numbers(line) for line in (*written[:1], *written[-1:])})
    return frozenset(line for line, count in seen.items() if count >= _RUNNING_SHARE * len(pages))


def _is_running(index: int, lines: Sequence[str], running: frozenset[str]) -> bool:
    is_edge = not any(lines[:index]) or not any(lines[index + 1 :])
    return is_edge and _without_numbers(lines[index]) in running


def _without_numbers(line: str) -> str:
    return _DIGITS.sub("#", line)


def _add_page(builder: DocumentBuilder, lines: Sequence[str], headings: Sequence[tuple[str, int]], page: int) -> None:
    levels = {_folded(title): level for title, level in headings}
    paragraph: list[str] = []
    i = 0
    while i < len(lines):
        height, level = _heading_at(lines, i, levels)
        if height:
            _add_paragraphs(builder, paragraph, page)
            paragraph = []
            builder.heading(" ".join(lines[i : i + height]), level, page)
            i += height
        else:
            paragraph.append(lines[i])
            i += 1
    _add_paragraphs(builder, paragraph, page)


def _heading_at(lines: Sequence[str], first: int, levels: dict[str, int]) -> tuple[int, int]:
    """How many lines from `first` on are one of the outline's titles, and its level; (0, 0) if none."""
    if levels and lines[first]:
        for height in range(1, _MAX_HEADING_LINES + 1):
            level = levels.pop(_folded(" ".join(lines[first : first + height])), None)
            if level is not None:
                return height, level
    return 0, 0


def _folded(title: str) -> str:
    """A title for comparison: the outline and the page differ in numbering, case and punctuation."""
    words = _WORDS.findall(title.lower())
    return "".join(words).lstrip("0123456789") or "".join(words)


def _add_paragraphs(builder: DocumentBuilder, lines: Sequence[str], page: int) -> None:
    """PDF knows lines only: a paragraph ends at a blank one, or where a short one ends a sentence."""
    lengths = [len(line) for line in lines if line]
    short = _SHORT_LINE * median(lengths) if lengths else 0
    paragraph: list[str] = []
    for line in lines:
        if line:
            paragraph.append(line)
        if not line or (len(line) < short and line.endswith(_SENTENCE_END)):
            builder.paragraph("\n".join(paragraph), page)
            paragraph = []
    builder.paragraph("\n".join(paragraph), page)
