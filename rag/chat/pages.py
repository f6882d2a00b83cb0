"""The chat pages: `/`, a conversation under its own address, one somebody shared, and a passage in its document."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from models_registry.models import Agent
from ops.access import requires
from ops.contracts.principal import Scope
from ops.requests import Request
from rag.chat import conversations
from rag.models import Document
from rag.pages.documents import get_document
from rag.pages.results import is_code, safe_external_url
from rag.pages.summaries import choose, summarize_collections
from rag.pages.uploads import upload_context

AROUND_CHARACTERS = 1_500
"""Of a document, before and after a passage in the side panel."""


@requires(GET=Scope.QUERY)
@never_cache
def chat_page(request: HttpRequest, conversation_id: UUID | None = None) -> HttpResponse:
    """The chat, empty or with one of the reader's own conversations."""
    ours = cast(Request, request)
    found = None if conversation_id is None else conversations.own(conversation_id, ours.principal)
    turns = [] if found is None else conversations.turns_of(found)
    facts = {
        "conversation": None if found is None else _facts(found),
        "turns": turns,
        "is_own": True,
        "may_vote": ours.principal.has_scope(Scope.FEEDBACK),
    }
    return render(request, "chat/page.html", _context(ours, facts))


@requires(GET=Scope.QUERY)
@never_cache
def shared_page(request: HttpRequest, share_id: UUID) -> HttpResponse:
    """A conversation that somebody shared, as far as this reader may read its sources."""
    ours = cast(Request, request)
    found, turns = conversations.shared_turns(share_id, ours.principal)
    facts = {"conversation": _facts(found), "turns": turns, "is_own": False, "may_vote": False}
    return render(request, "chat/page.html", _context(ours, facts) | {"is_shared": True})


@requires(GET=Scope.QUERY)
@never_cache
def passage(request: HttpRequest, pk: int) -> HttpResponse:
    """A part of a document's text around ``?start=&end=``, for the side panel."""
    found = get_document(cast(Request, request).principal, pk)
    text: str = Document.objects.filter(pk=found.pk).values_list("text", flat=True)[0]
    start, end = _number(request, "start"), _number(request, "end")
    if not start < end <= len(text):
        start = end = 0
    first = max(start - AROUND_CHARACTERS, 0)
    last = min(end + AROUND_CHARACTERS, len(text))
    context = {
        "document": found,
        "before": text[first:start],
        "passage": text[start:end],
        "after": text[end:last],
        "is_cut_before": first > 0,
        "is_cut_after": last < len(text),
        "start": start,
        "end": end,
        "is_code": is_code(found.media_type),
        "external_url": safe_external_url(found.external_url),
    }
    return render(request, "chat/passage.html", context)


def _context(request: Request, facts: dict[str, Any]) -> dict[str, Any]:
    collections = summarize_collections(request.principal)
    asked = request.GET.get("collection", "")
    if not asked and facts["conversation"] is not None:
        asked = facts["conversation"]["collection"]
    chosen = choose(collections, asked)
    agents = [
        {"slug": agent.slug, "name": agent.name, "description": agent.description}
        for agent in Agent.objects.filter(is_enabled=True)
    ] or [{"slug": "extractive", "name": "Quotes", "description": "Answers in the words of your documents."}]
    return upload_context(request.principal, collections, chosen) | {
        "section": "chat",
        "collection": chosen,
        "agents": agents,
        "facts": facts | {"agents": agents, "max_characters": settings.RAG_QUERY_MAX_CHARACTERS},
        "question": request.GET.get("q", ""),
        "may_see_health": request.principal.has_scope(Scope.OPS_READ),
    }


def _facts(found: Any) -> dict[str, Any]:
    return {
        "id": str(found.pk),
        "title": found.title,
        "collection": found.collection,
        "share_id": None if found.share_id is None else str(found.share_id),
    }


def _number(request: HttpRequest, name: str) -> int:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
