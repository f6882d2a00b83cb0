"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from ops.access import Access
from ops.api.permissions import HasDeclaredScope


class SchemaView(SpectacularAPIView):
    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)


class DocumentationView(SpectacularSwaggerView):
    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)
    url_name = "api-schema"
