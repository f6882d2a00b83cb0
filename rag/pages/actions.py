"""What can be done to a document from its row or its page: index again, delete, restore."""

from __future__ import annotations

from typing import cast
from urllib.parse import urlencode, urlsplit

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render, resolve_url

from ops.access import requires
from ops.contracts.principal import Scope
from ops.requests import Request
from rag.ingest.service import reindex_document, remove_document, restore_document
from rag.models import Document, IndexRun
from rag.pages.documents import get_document
from rag.pages.runs import run_view


@requires(POST=Scope.INGEST)
def delete(request: HttpRequest, pk: int) -> HttpResponse:
    """Take the document out of the search; the answer offers to undo it."""
    ours = cast(Request, request)
    document = get_document(ours.principal, pk)
    remove_document(document.collection, document.document_id, ours.principal)
    if request.htmx:  # type: ignore[attr-defined]
        document.refresh_from_db(fields=("state", "chunk_count", "deleted_at", "updated_at"))
        context = {"document": document, "may_ingest": True, "show_collection": "collection" not in _shown(request)}
        return render(request, "documents/row_and_toast.html", context)
    query = urlencode({"collection": document.collection.slug, "deleted": pk})
    return redirect(f"{resolve_url('documents')}?{query}")


@requires(POST=Scope.INGEST)
def restore(request: HttpRequest, pk: int) -> HttpResponse:
    """Undo a deletion: the document is indexed again."""
    ours = cast(Request, request)
    document = get_document(ours.principal, pk)
    run = restore_document(document.collection, document.document_id, ours.principal)
    return _after_run(ours, document, run, "is being restored.")


@requires(POST=Scope.INGEST)
def reindex(request: HttpRequest, pk: int) -> HttpResponse:
    """Read and index the document again."""
    ours = cast(Request, request)
    document = get_document(ours.principal, pk)
    run = reindex_document(document.collection, document.document_id, ours.principal)
    return _after_run(ours, document, run, "is being indexed again.")


def _after_run(request: Request, document: Document, run: IndexRun, text: str) -> HttpResponse:
    if request.htmx:  # type: ignore[attr-defined]
        view = run_view(run, request.principal, most_failures=1)
        return render(request, "documents/run_started.html", {"view": view}, status=202)
    messages.success(request, f"“{document}” {text}")
    return redirect("document", document.pk)


def _shown(request: HttpRequest) -> QueryDict:
    """The filters of the list that htmx sent the request from."""
    url = request.htmx.current_url or ""  # type: ignore[attr-defined]
    return QueryDict(urlsplit(url).query)
