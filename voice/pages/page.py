"""``/voice/``: the frame of a spoken conversation; scripts fill it."""

from __future__ import annotations

from typing import cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from models_registry.models import Agent
from ops.access import requires
from ops.contracts.principal import Scope
from ops.requests import Request
from rag.pages.summaries import choose, summarize_collections
from voice.engines.contracts import Style
from voice.installed import voices
from voice.transcripts import is_kept


@requires(GET=Scope.VOICE)
@never_cache
def voice_page(request: HttpRequest) -> HttpResponse:
    principal = cast(Request, request).principal
    collections = summarize_collections(principal)
    return render(
        request,
        "voice/page.html",
        {
            "section": "voice",
            "collections": collections,
            "collection": choose(collections, request.GET.get("collection", "")),
            "agents": Agent.objects.filter(is_enabled=True),
            "voices": voices(),
            "wake_phrase": settings.VOICE_WAKE_PHRASE.capitalize(),
            "keeps": is_kept(principal, True),
            "styles": [style.value for style in Style],
            "style": settings.VOICE_STYLE,
        },
    )
