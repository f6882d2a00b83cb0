"""Routes below ``/v1/``."""

from django.urls import path

from rag.openai_api.views import ChatView, EmbeddingsView, ModelsView, ModelView

urlpatterns = [
    path("models", ModelsView.as_view(), name="openai-models"),
    path("models/<path:name>", ModelView.as_view(), name="openai-model"),
    path("chat/completions", ChatView.as_view(), name="openai-chat"),
    path("embeddings", EmbeddingsView.as_view(), name="openai-embeddings"),
]
