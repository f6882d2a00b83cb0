"""The OpenAPI document and the page that shows it."""

from __future__ import annotations

from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from ops.access import Access
from ops.api.permissions import HasDeclaredScope


class SchemaView(SpectacularAPIView):
    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)


class DocumentationView(SpectacularSwaggerSplitView):
    """Swagger UI, with its script as a file of its own: the content security policy allows no other."""

    required_scopes = {"GET": Access.ANY_PRINCIPAL}
    permission_classes = (HasDeclaredScope,)
    url_name = "api-schema"
