"""Every route. Each view declares the scope it needs; a test walks this table."""

from django.contrib import admin
from django.urls import include, path

from models_registry.api.health import ModelsHealthView
from rag.mcp.views import McpView
from zenglow_site.icon import favicon

handler400 = "ops.api.problems.bad_request"
handler403 = "ops.api.problems.forbidden"
handler404 = "ops.api.problems.not_found"
handler500 = "ops.api.problems.server_error"

urlpatterns = [
    path("rag/fusion/", include("models_registry.api.weights_urls")),
    path("registry/", include("rag.api.evaluations.urls")),
    path("registry/", include("models_registry.api.urls")),
    path("health/models", ModelsHealthView.as_view(), name="health-models"),
    path("rag/", include("rag.api.urls")),
    path("leonardo/", include("voice.api.urls")),
    path("mcp", McpView.as_view(), name="mcp"),
    path("v1/", include("rag.openai_api.urls")),
    path("", include("ops.api.urls")),
    path("", include("ops.pages.urls")),
    path("", include("zenglow_site.accounts")),
    path("", include("zenglow_site.single_sign_on")),
    path("", include("rag.pages.urls")),
    path("", include("voice.pages.urls")),
    path("favicon.ico", favicon, name="favicon"),
    path("admin/", admin.site.urls),
]
