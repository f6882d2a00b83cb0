"""``/voice/``: the frame of a spoken conversation; scripts fill it."""

from __future__ import annotations

from typing import cast

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Scope
from ops.requests import Request
from rag.pages.summaries import choose, summarize_collections
from voice.engines import espeak
from voice.engines.contracts import Style


@requires(GET=Scope.VOICE)
@never_cache
def voice_page(request: HttpRequest) -> HttpResponse:
    collections = summarize_collections(cast(Request, request).principal)
    return render(
        request,
        "voice/page.html",
        {
            "section": "voice",
            "collections": collections,
            "collection": choose(collections, request.GET.get("collection", "")),
            "voices": list(espeak.VOICES),
            "voice": settings.VOICE_VOICE,
            "styles": [style.value for style in Style],
            "style": settings.VOICE_STYLE,
        },
    )
