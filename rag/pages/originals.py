"""Handing out the files that people put in, without ever running what is inside them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import cast

from django.http import HttpRequest, HttpResponse
from django.utils.http import content_disposition_header

from ops.access import requires
from ops.contracts.principal import Scope
from ops.contracts.problems import NotFound
from ops.requests import Request
from rag.ingest import formats
from rag.ingest.originals import OriginalError, open_original
from rag.models import Document
from rag.pages.documents import get_document

_DOWNLOADED = frozenset({formats.DOCX, formats.PPTX, formats.XLSX, formats.EPUB})
"""Kinds of file that browsers can't show."""

_PDF_VIEWER = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Chrome's viewer is a page with styles of its own: what the pages are forbidden would leave it blank."""

_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@requires(GET=Scope.QUERY)
def original(request: HttpRequest, pk: int) -> HttpResponse:
    """The file as it was put in, or the text of a document that came as text."""
    document = get_document(cast(Request, request).principal, pk)
    if not document.original:
        text = Document.objects.filter(pk=pk).values_list("text", flat=True)[0]
        if not text:
            raise NotFound("Nothing was kept of this document: it came without a file and without text.")
        return _guarded(HttpResponse(text, content_type="text/plain; charset=utf-8"), document, formats.PLAIN_TEXT)
    try:
        with open_original(document.original) as file:
            content = file.read()
    except OriginalError as error:
        raise NotFound(str(error)) from error
    is_shown_as_text = document.media_type not in {formats.PDF, formats.HTML, *_DOWNLOADED}
    # Without a charset: the file is as its owner made it, and browsers look for a byte order mark or guess.
    content_type = "text/plain" if is_shown_as_text else document.media_type
    return _guarded(HttpResponse(content, content_type=content_type), document, document.media_type)


def _guarded(response: HttpResponse, document: Document, media_type: str) -> HttpResponse:
    """Show PDF and HTML as what they are and every other text as plain text; let the rest be downloaded.

    Scripts never run: HTML stands in a sandbox of its own, and no type is guessed. Chrome's PDF viewer does not start
    in a sandbox, and PDF has no access to the page's origin.
    """
    is_pdf = media_type == formats.PDF
    response.headers["Content-Security-Policy"] = _PDF_VIEWER if is_pdf else _SANDBOX
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Cache-Control"] = "private, no-cache"
    name = PurePosixPath((document.source or document.title or document.document_id).replace("\\", "/")).name
    disposition = content_disposition_header(media_type in _DOWNLOADED, name)
    if disposition:
        response.headers["Content-Disposition"] = disposition
    return response
