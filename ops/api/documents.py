"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

from collections.abc import Iterable

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from ops.access import Access
from ops.api.permissions import HasDeclaredScope


class ByQueryToo(DefaultContentNegotiation):
    """Beside ``Accept``, ``?format=json`` or ``yaml``, as tools that read OpenAPI documents ask."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        asked = format_suffix or request.query_params.get("format")
        chosen: tuple[BaseRenderer, str] = super().select_renderer(request, renderers, asked)
        return chosen


class SchemaView(SpectacularAPIView):
    content_negotiation_class = ByQueryToo
    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)


class DocumentationView(SpectacularSwaggerSplitView):
    """Swagger UI, with its script as a file of its own: the content security policy allows no other."""

    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)
    url_name = "api-schema"
