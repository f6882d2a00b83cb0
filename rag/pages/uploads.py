"""Adding documents: files from a form, or sent by the page's own script with progress."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

from django.conf import settings
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import InvalidRequest, NotFound, Problem, TooLarge
from ops.requests import Request
from rag.collections import create_collection
from rag.ingest.plan import Offer
from rag.ingest.service import start_run
from rag.models import Collection, IndexRun
from rag.pages.runs import run_view
from rag.pages.summaries import CollectionSummary, choose, summarize_collections
from rag.readable import open_collections


@requires(GET=Scope.INGEST, POST=Scope.INGEST)
@never_cache
def upload(request: HttpRequest) -> HttpResponse:
    """The form; what is posted becomes an index run, which the answer leads to."""
    ours = cast(Request, request)
    if request.method != "POST":
        return _form_page(ours, None)
    is_scripted = bool(request.htmx)  # type: ignore[attr-defined]
    try:
        run = _start(ours)
    except Problem as problem:
        if is_scripted:
            return render(request, "documents/upload_problem.html", {"problem": problem}, status=problem.status)
        return _form_page(ours, problem)
    if is_scripted:
        view = run_view(run, ours.principal, most_failures=20)
        return render(request, "documents/run_card.html", {"view": view}, status=202)
    return redirect("index-run", run.pk)


def upload_context(
    principal: Principal, collections: list[CollectionSummary], chosen: CollectionSummary | None = None
) -> dict[str, Any]:
    """What the upload form needs, on its own page and in the dialog of others; ``chosen`` is offered first."""
    return {
        "upload_collection": chosen or choose(collections, ""),
        "collections": collections,
        "default_collection": settings.RAG_DEFAULT_COLLECTION,
        "upload_max_bytes": settings.RAG_REQUEST_MAX_BYTES,
        "upload_max_files": settings.RAG_BULK_MAX_DOCUMENTS,
        "may_ingest": principal.has_scope(Scope.INGEST),
    }


def _form_page(request: Request, problem: Problem | None) -> HttpResponse:
    context = upload_context(request.principal, summarize_collections(request.principal))
    context |= {"section": "documents", "problem": problem}
    return render(request, "documents/upload.html", context, status=problem.status if problem else 200)


def _start(request: Request) -> IndexRun:
    """Raises `Problem`."""
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.RAG_REQUEST_MAX_BYTES:
        limit_mb = settings.RAG_REQUEST_MAX_BYTES / 1_000_000
        raise TooLarge(f"At most {limit_mb:.0f} MB can be sent at once. Send fewer files, or use `manage.py index`.")
    files = request.FILES.getlist("files")
    if not files:
        raise InvalidRequest("Choose at least one file.")
    collection = _collection(request.principal, request.POST.get("collection", ""))
    paths = _paths(request) or [file.name or "" for file in files]
    if len(paths) != len(files):
        raise InvalidRequest("Each file needs one path.")
    return start_run(collection, _offers(files, paths), request.principal, "upload")


def _collection(principal: Principal, slug: str) -> Collection:
    """The collection to fill; the default one is made when it is first needed."""
    collection = open_collections(principal).filter(slug=slug).first()
    if collection is None and slug == settings.RAG_DEFAULT_COLLECTION and principal.may_touch(slug):
        return create_collection(slug, principal)
    if collection is None:
        raise NotFound(f"There is no collection “{slug}”. Choose another one.")
    return collection


def _paths(request: Request) -> list[str]:
    """Where the files stood in the folder that was dropped; empty for a form without a script."""
    try:
        paths = json.loads(request.POST.get("paths", "[]"))
    except (ValueError, RecursionError):
        paths = None
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise InvalidRequest("The paths of the files can't be read.")
    return paths


def _offers(files: list[UploadedFile[bytes]], paths: list[str]) -> Iterator[Offer]:
    for file, path in zip(files, paths, strict=True):
        name = clean_path(path) or clean_path(file.name or "") or "unnamed"
        yield Offer(document_id=name, content=file.read(), source=name)


def clean_path(path: str) -> str:
    """A file's place in the folder that was dropped, as a document id: no root, no way upwards, only printable."""
    printable = "".join(character if character.isprintable() else "_" for character in path.replace("\\", "/"))
    return "/".join(part for part in printable.strip().split("/") if part not in {"", ".", ".."})
