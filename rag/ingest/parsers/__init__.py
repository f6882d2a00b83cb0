"""One module per family of formats, each with `parse(request: ParseRequest) -> list[ParsedDocument]`.

Call `parse` here for files you trust only; anything from outside goes through `rag.ingest.sandbox`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import cast

from rag.ingest.formats import detect
from rag.ingest.types import EmptyDocumentError, IngestError, ParsedDocument, ParseError, ParseRequest


def parse(request: ParseRequest) -> list[ParsedDocument]:
    """Parse one file in this process. An empty `request.media_type` means: by name, then by content.

    Raises any `IngestError`; whatever else a library raises over a broken file becomes `ParseError`, save MemoryError.
    """
    if not request.data:
        raise EmptyDocumentError(f"{request.name} is empty; add text to it or leave it out.")
    known = detect(request.data, request.name, request.media_type or None)
    module = import_module(f"{__name__}.{known.parser}")
    try:
        return cast("list[ParsedDocument]", module.parse(replace(request, media_type=known.media_type)))
    except (IngestError, MemoryError):
        raise
    except Exception as error:
        raise ParseError.of_fault(request.name, error) from error
