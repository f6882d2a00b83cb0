"""``/documents/``: what is there, in which state, and what each document holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Length, Substr
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import NotFound
from ops.requests import Request
from rag.models import Document, DocumentState
from rag.pages.results import is_code, metadata_rows, safe_external_url
from rag.pages.summaries import summarize_collections
from rag.pages.uploads import upload_context
from rag.readable import readable_documents

PAGE_SIZE = 50
TEXT_WINDOW_CHARACTERS = 50_000
"""Most of a document's text on one page."""

KEPT_STATES = (DocumentState.INDEXED, DocumentState.FAILED)

LIST_COLUMNS = (
    "id",
    "collection",
    "document_id",
    "title",
    "source",
    "media_type",
    "original",
    "state",
    "failure",
    "size_bytes",
    "chunk_count",
    "updated_at",
    "deleted_at",
)


@requires(GET=Scope.QUERY)
@never_cache
def document_list(request: HttpRequest) -> HttpResponse:
    """Documents, newest change first, by collection, state and words of their title, id or source."""
    principal = cast(Request, request).principal
    collections = summarize_collections(principal)
    slug = request.GET.get("collection", "")
    chosen = next((summary for summary in collections if summary.slug == slug), None)
    if slug and chosen is None:
        raise NotFound(f"There is no collection “{slug}”, or it is not open to you.")
    words = request.GET.get("q", "").strip()
    state = request.GET.get("state", "")
    states = (DocumentState(state),) if state in DocumentState.values else KEPT_STATES
    found = _matching(readable_documents(principal), slug, words).filter(state__in=states)
    page = Paginator(found.only(*LIST_COLUMNS).select_related("collection").order_by("-updated_at", "-id"), PAGE_SIZE)
    shown = [chosen] if chosen else collections
    address = {name: value for name, value in (("collection", slug), ("q", words), ("state", state)) if value}
    context: dict[str, Any] = upload_context(principal, collections, chosen) | {
        "section": "documents",
        "collection": chosen,
        "words": words,
        "state": state,
        "tabs": [
            ("", "All", sum(summary.kept for summary in shown)),
            ("indexed", "Indexed", sum(summary.indexed for summary in shown)),
            ("failed", "Failed", sum(summary.failed for summary in shown)),
            ("deleted", "Deleted", sum(summary.deleted for summary in shown)),
        ],
        "page": page.get_page(request.GET.get("page")),
        "address": urlencode(address),
        "address_without_state": urlencode({name: value for name, value in address.items() if name != "state"}),
        "undo": _just_deleted(principal, request.GET.get("deleted", "")),
    }
    return render(request, "documents/list.html", context)


@requires(GET=Scope.QUERY)
@never_cache
def document(request: HttpRequest, pk: int) -> HttpResponse:
    """One document: its facts, and its text from ``?at=`` or around the passage ``?start=&end=``."""
    principal = cast(Request, request).principal
    found = get_document(principal, pk)
    length, text = _window(found, request)
    context = {
        "section": "documents",
        "document": found,
        "text": text,
        "length": length,
        "is_code": is_code(found.media_type),
        "external_url": safe_external_url(found.external_url),
        "metadata": metadata_rows(found.metadata),
        "may_ingest": principal.has_scope(Scope.INGEST),
    }
    return render(request, "documents/document.html", context)


def get_document(principal: Principal, pk: int) -> Document:
    """The document, without its text. Raises ``Http404`` for one that the principal may not read."""
    return get_object_or_404(readable_documents(principal).select_related("collection").defer("text"), pk=pk)


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A part of a document's text; ``passage`` is marked. ``start`` and ``end`` are character positions."""

    start: int
    end: int
    before: str
    passage: str
    after: str
    previous: int | None
    next: int | None


def _window(document: Document, request: HttpRequest) -> tuple[int, TextWindow]:
    row = Document.objects.filter(pk=document.pk)
    length: int = row.values_list(Length("text"), flat=True)[0]
    start, end = _number(request, "start"), _number(request, "end")
    if not start < end <= length:
        start = end = 0
    at = min(_number(request, "at"), max(length - 1, 0))
    if end > start:
        at = max(min(start - TEXT_WINDOW_CHARACTERS // 4, length - TEXT_WINDOW_CHARACTERS), 0)
    text: str = row.values_list(Substr("text", at + 1, TEXT_WINDOW_CHARACTERS), flat=True)[0]
    upto = at + len(text)
    inside, outside = max(start - at, 0), max(end - at, 0)
    return length, TextWindow(
        start=at,
        end=upto,
        before=text[:inside],
        passage=text[inside:outside],
        after=text[outside:],
        previous=max(at - TEXT_WINDOW_CHARACTERS, 0) if at else None,
        next=upto if upto < length else None,
    )


def _matching(documents: QuerySet[Document], slug: str, words: str) -> QuerySet[Document]:
    if slug:
        documents = documents.filter(collection__slug=slug)
    for word in words.split()[:10]:
        documents = documents.filter(
            Q(title__icontains=word) | Q(document_id__icontains=word) | Q(source__icontains=word)
        )
    return documents


def _just_deleted(principal: Principal, text: str) -> Document | None:
    """The document whose deletion led to this page, so that it can be undone."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return None
    return readable_documents(principal).defer("text").filter(pk=int(text), state=DocumentState.DELETED).first()


def _number(request: HttpRequest, name: str) -> int:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
