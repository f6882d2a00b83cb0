from django.urls import path

from models_registry.api.registry import DeploymentsView, ModelsView, ModelView

urlpatterns = [
    path("models", ModelsView.as_view(), name="registry-models"),
    # A model may be named after its origin, such as BAAI/bge-small-en-v1.5.
    path("models/<path:name>", ModelView.as_view(), name="registry-model"),
    path("deployments", DeploymentsView.as_view(), name="registry-deployments"),
]
