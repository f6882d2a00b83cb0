"""Documents as resources, ``zenglow://collections/{slug}/documents/{document_id}``: the text that was read of them."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import InvalidRequest, NotFound
from rag.mcp.caller import Caller
from rag.models import Collection, Document, DocumentState
from rag.readable import open_collections, readable_documents

SCHEME = "zenglow"
TEMPLATE = f"{SCHEME}://collections/{{collection}}/documents/{{document_id}}"
PAGE = 100

_URI = re.compile(rf"^{SCHEME}://collections/([^/]+)/documents/(.+)$")


def uri_of(slug: str, document_id: str) -> str:
    return f"{SCHEME}://collections/{quote(slug, safe='')}/documents/{quote(document_id, safe='')}"


def listed(caller: Caller, cursor: str | None) -> tuple[list[Document], str | None]:
    """A page of the documents that the caller may read, the last added first, and the cursor of the next page."""
    caller.ensure(Scope.QUERY)
    documents = readable_documents(caller.principal).filter(state=DocumentState.INDEXED).select_related("collection")
    if cursor is not None:
        if not cursor.isdecimal() or len(cursor) > 18:
            raise InvalidRequest("The cursor is not one that this server gave out.")
        documents = documents.filter(id__lt=int(cursor))
    found = list(documents.defer("text", "offer").order_by("-id")[: PAGE + 1])
    return found[:PAGE], str(found[PAGE - 1].id) if len(found) > PAGE else None


def read(caller: Caller, uri: str) -> Document:
    """The document of a URI. Raises `NotFound` alike for what isn't there and what the caller may not read."""
    caller.ensure(Scope.QUERY)
    match = _URI.match(uri)
    if match is None:
        raise NotFound(f"There is nothing at {uri!r}. Documents are at {TEMPLATE}.")
    return document(caller.principal, unquote(match[1]), unquote(match[2]))


def document(principal: Principal, slug: str, document_id: str) -> Document:
    """An indexed document. Raises `NotFound` as `read`."""
    documents = readable_documents(principal).select_related("collection").defer("offer")
    # What PostgreSQL can't hold can't be there either.
    is_text = (slug + document_id).isprintable()
    found = (
        documents.filter(collection__slug=slug, document_id=document_id, state=DocumentState.INDEXED).first()
        if is_text
        else None
    )
    if found is None:
        raise NotFound(f"There is no document {document_id!r} in '{slug}'.")
    return found


def collection(principal: Principal, slug: str) -> Collection:
    """A collection that the principal may touch. Raises `NotFound`."""
    found = open_collections(principal).filter(slug=slug).first() if slug.isprintable() else None
    if found is None:
        raise NotFound(f"There is no collection {slug!r}.")
    return found
