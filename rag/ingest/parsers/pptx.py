"""Presentations, through python-pptx: a slide is a page, its title a heading, its notes follow it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from pptx import Presentation
from pptx.enum.shapes import MSO_SHAPE_TYPE

from rag.ingest.builder import DocumentBuilder
from rag.ingest.parsers.archive import open_archive
from rag.ingest.parsers.docx import core_properties
from rag.ingest.types import BlockKind, ParsedDocument, ParseLimitError, ParseRequest


def parse(request: ParseRequest) -> list[ParsedDocument]:
    with open_archive(request) as archive:
        title, metadata = core_properties(archive)
    # The title python-pptx and PowerPoint give to every new file says nothing.
    if title == "PowerPoint Presentation":
        title = None
    builder = DocumentBuilder(request)
    slides = Presentation(io.BytesIO(request.data)).slides
    if len(slides) > request.limits.pages:
        raise ParseLimitError(
            f"{request.name} has {len(slides):,} slides, more than {request.limits.pages:,}; split it up.", "pages"
        )
    for page, slide in enumerate(slides, start=1):
        _add_slide(builder, slide, page)
    return [builder.build(title, metadata)]


def _add_slide(builder: DocumentBuilder, slide: Any, page: int) -> None:
    heading = slide.shapes.title
    if heading is not None and heading.has_text_frame:
        builder.heading(heading.text_frame.text, 1, page)
    for shape in _leaves(slide.shapes):
        if heading is not None and shape.shape_id == heading.shape_id:
            continue
        if shape.has_text_frame:
            _add_text(builder, shape.text_frame, page)
        elif getattr(shape, "has_table", False):
            rows = (" | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in shape.table.rows)
            builder.add(BlockKind.TABLE, "\n".join(row for row in rows if row.strip(" |")), page=page)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        builder.paragraph(slide.notes_slide.notes_text_frame.text, page)


def _leaves(shapes: Any) -> Iterator[Any]:
    """All shapes in reading order, those inside groups included."""
    pending = list(reversed(list(shapes)))
    while pending:
        shape = pending.pop()
        if shape.shape_type == MSO_SHAPE_TYPE.GROUP:
            pending.extend(reversed(list(shape.shapes)))
        else:
            yield shape


def _add_text(builder: DocumentBuilder, frame: Any, page: int) -> None:
    paragraphs = [paragraph for paragraph in frame.paragraphs if paragraph.text.strip()]
    if len(paragraphs) > 1:
        lines = (f"{'  ' * paragraph.level}- {' '.join(paragraph.text.split())}" for paragraph in paragraphs)
        builder.add(BlockKind.LIST, "\n".join(lines), page=page)
    else:
        builder.paragraph(frame.text, page)
