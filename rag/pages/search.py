"""``/search/``."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import urlencode

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django_htmx.http import reselect, reswap, retarget

from ops.access import requires
from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest, NotFound, Problem
from ops.requests import Request
from rag.models import Collection
from rag.pages.results import present
from rag.pages.summaries import choose, summarize_collections
from rag.pages.uploads import upload_context
from rag.pipeline.search import SearchRequest, search


@requires(GET=Scope.QUERY)
@never_cache
def search_page(request: HttpRequest) -> HttpResponse:
    """The query box and, with ``?q=``, what was found. htmx takes the results out of the whole page."""
    ours = cast(Request, request)
    collections = summarize_collections(ours.principal)
    slug = request.GET.get("collection", "")
    chosen = choose(collections, slug)
    query = request.GET.get("q", "").strip()
    context: dict[str, Any] = upload_context(ours.principal, collections, chosen) | {
        "section": "search",
        "query": query,
        "collection": chosen,
        "unknown_collection": slug if chosen is None else "",
        "group": request.GET.get("group") == "document",
        "explain": "explain" in request.GET,
        "documents_api": request.build_absolute_uri("/rag/documents"),
        "needs_key": settings.ENABLE_API_KEYS,
        "is_being_filled": chosen is not None and not chosen.searchable and chosen.collection.is_being_indexed,
        "takes_feedback": ours.principal.has_scope(Scope.FEEDBACK) and settings.RAG_QUERY_LOG != "off",
    }
    if chosen is None:
        status = 404 if slug else 200
    elif query:
        try:
            context |= _answer(ours, chosen.collection, query)
            status = 200
        except (InvalidRequest, NotFound) as problem:
            context["problem"] = cast(Problem, problem)
            status = problem.status
    else:
        status = 200
    response = render(request, "search/page.html", context, status=status)
    # A refusal stands where the results would, not in a toast.
    return response if status == 200 else reselect(reswap(retarget(response, "#results"), "outerHTML"), "#results")


def _answer(request: Request, collection: Collection, query: str) -> dict[str, Any]:
    """What the template needs of a search. Raises `Problem`."""
    offset = _whole_number(request.GET.get("offset", ""))
    answer = search(
        SearchRequest(
            query=query,
            collection=collection.slug,
            offset=offset,
            group_by="document" if request.GET.get("group") == "document" else None,
            explain="explain" in request.GET,
        ),
        request.principal,
        request_id=request.request_id,
        headers=request.headers,
        cookies=request.COOKIES,
    )
    options = {name: request.GET[name] for name in ("group", "explain") if name in request.GET}
    address = {"q": query, "collection": collection.slug} | options
    top_k: int = answer["top_k"]
    is_full = len(answer["results"]) == top_k
    return {
        "answer": present(answer, collection, offset=offset),
        "offset": offset,
        "last": offset + len(answer["results"]),
        "permalink": f"?{urlencode(address)}",
        "previous": f"?{urlencode(address | {'offset': max(offset - top_k, 0)})}" if offset else None,
        "next": f"?{urlencode(address | {'offset': offset + top_k})}" if is_full else None,
        "explain_url": f"?{urlencode(address | {'explain': 1, 'offset': offset})}",
    }


def _whole_number(text: str) -> int:
    """The number in an address; 0 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
