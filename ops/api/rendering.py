"""How answers are written: JSON that every parser accepts."""

from __future__ import annotations

from collections.abc import Iterable

from rest_framework import renderers
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class JSONRenderer(renderers.JSONRenderer):
    """Compact UTF-8 JSON. NaN and infinities are programming errors and raise ``ValueError``."""

    ensure_ascii = False
    compact = True
    strict = True


class OneRepresentation(BaseContentNegotiation):
    """For views with a single form of answer, whatever the client says it accepts."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser | None:
        return next(iter(parsers), None)

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, str(renderer.media_type)
