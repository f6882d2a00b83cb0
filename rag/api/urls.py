"""Routes below ``/rag/``."""

from django.urls import include, path

from rag.api.ann import AnnConfigsView
from rag.api.answers import QueryView
from rag.api.feedback import FeedbackView
from rag.api.search import Query2View

urlpatterns = [
    path("", include("rag.api.documents.urls")),
    path("collections/<str:slug>/ann", AnnConfigsView.as_view(), name="ann-configs-api"),
    path("feedback", FeedbackView.as_view(), name="feedback"),
    path("query", QueryView.as_view(), name="query"),
    path("query2", Query2View.as_view(), name="query2"),
]
