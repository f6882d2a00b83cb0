"""A bound on what one request may make the web server keep in memory.

Twisted takes in the whole body before the application sees the request, reads forms once more by itself, and Daphne
queues all of it: a body of 200 MB took 2 GB, before anybody asked who had sent it. Here, what is beyond the largest
request that is allowed (``RAG_REQUEST_MAX_BYTES``) is read and thrown away; the application refuses it by its length.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from daphne import http_protocol
from django.conf import settings


class BoundedRequest(http_protocol.WebRequest):  # type: ignore[misc]  # Daphne has no types
    """Daphne's request, which forgets a body that is too large."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **{**keywords, "parsePOSTFormSubmission": False})  # Django reads forms
        self._received_bytes = 0

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802  (Twisted's name)
        self._received_bytes += len(data)
        if self._received_bytes <= settings.RAG_REQUEST_MAX_BYTES:
            super().handleContentChunk(data)

    def process(self) -> Any:
        if self._received_bytes > settings.RAG_REQUEST_MAX_BYTES:
            self.content = BytesIO()
            # A body sent in chunks came without its length.
            self.requestHeaders.setRawHeaders(b"Content-Length", [str(self._received_bytes).encode()])
        return super().process()


def bound_request_bodies() -> None:
    """Let the Daphne of this process use `BoundedRequest`."""
    http_protocol.WebRequest = BoundedRequest
