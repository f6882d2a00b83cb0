"""Spreadsheets and CSV: each row is a line that names its columns, so that a chunk can be read without the header."""

from __future__ import annotations

import csv
import datetime
import io
import re
from collections.abc import Iterable, Iterator, Sequence

from rag.ingest import formats
from rag.ingest.builder import DocumentBuilder, check_text_size
from rag.ingest.encoding import clean, decode
from rag.ingest.parsers.archive import open_archive
from rag.ingest.parsers.docx import core_properties
from rag.ingest.types import BlockKind, ParsedDocument, ParseRequest

_DELIMITERS = (",", ";", "\t", "|")
_SAMPLE_CHARACTERS = 16_384
_NUMBER = re.compile(r"[-+]?[\d.,\s]+%?\Z")


def parse(request: ParseRequest) -> list[ParsedDocument]:
    return [_parse_workbook(request) if request.media_type == formats.XLSX else _parse_csv(request)]


def _parse_csv(request: ParseRequest) -> ParsedDocument:
    text = clean(decode(request.data, request.name))
    csv.field_size_limit(request.limits.text_characters)
    delimiter = "\t" if request.media_type == formats.TSV else _delimiter(text[:_SAMPLE_CHARACTERS])
    builder = DocumentBuilder(request)
    _add_rows(builder, csv.reader(io.StringIO(text), delimiter=delimiter), request)
    return builder.build()


def _delimiter(sample: str) -> str:
    """The one that parts the first lines into the same number of columns most often, and into the most columns."""

    def evenness(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row][:20]
        typical = max(set(widths), key=widths.count, default=1)
        return (widths.count(typical) if typical > 1 else 0, typical)

    return max(_DELIMITERS, key=evenness)


def _parse_workbook(request: ParseRequest) -> ParsedDocument:
    from openpyxl import load_workbook  # slow to import, and CSV does without

    with open_archive(request) as archive:
        title, metadata = core_properties(archive)
    workbook = load_workbook(io.BytesIO(request.data), read_only=True, data_only=True, keep_links=False)
    builder = DocumentBuilder(request)
    try:
        for sheet in workbook.worksheets:
            builder.heading(sheet.title, 1)
            # Files of other programs declare sizes that are far too large or too small.
            sheet.reset_dimensions()
            _add_rows(builder, (map(_cell_text, row) for row in sheet.iter_rows(values_only=True)), request)
    finally:
        workbook.close()
    return builder.build(title, metadata, heading_is_title=False)


def _add_rows(builder: DocumentBuilder, rows: Iterable[Iterable[str]], request: ParseRequest) -> None:
    lines: list[str] = []
    characters = 0
    for line in _row_lines(rows):
        characters += len(line)
        check_text_size(characters, request)
        lines.append(line)
    builder.add(BlockKind.TABLE, "\n".join(lines))


def _row_lines(rows: Iterable[Iterable[str]]) -> Iterator[str]:
    header: list[str] | None = None
    is_first = True
    for row in rows:
        cells = [" ".join(cell.split()) for cell in row]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if is_first:
            is_first = False
            if _is_header(cells):
                header = cells
                yield " | ".join(cells)
                continue
        yield _row_line(cells, header)


def _is_header(cells: Sequence[str]) -> bool:
    """Names: at least two, all there, all different, none a number."""
    return len(cells) > 1 and all(cells) and len(set(cells)) == len(cells) and not any(map(_NUMBER.match, cells))


def _row_line(cells: Sequence[str], header: Sequence[str] | None) -> str:
    if header is None:
        return " | ".join(cells)
    named = [f"{name}: {cell}" for name, cell in zip(header, cells, strict=False) if cell]
    return "; ".join([*named, *filter(None, cells[len(header) :])])


def _cell_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return str(value)
