"""Routes below ``/rag/``."""

from django.urls import include, path

from rag.api.ann import AnnConfigsView
from rag.api.answers import AnswerEventsView, AnswerView, QueryView
from rag.api.conversations import ConversationsView, ConversationView, VerdictView
from rag.api.feedback import FeedbackView
from rag.api.search import Query2View
from rag.api.sources import SourcesView, SourceView, SyncView

urlpatterns = [
    path("query2", Query2View.as_view(), name="query2"),  # first, as it is asked most
    path("", include("rag.api.documents.urls")),
    path("collections/<str:slug>/ann", AnnConfigsView.as_view(), name="ann-configs-api"),
    path("feedback", FeedbackView.as_view(), name="feedback"),
    path("answers/<uuid:request_id>", AnswerView.as_view(), name="answer"),
    path("answers/<uuid:request_id>/events", AnswerEventsView.as_view(), name="answer-events"),
    path("conversations", ConversationsView.as_view(), name="conversations-api"),
    path("conversations/<uuid:conversation_id>", ConversationView.as_view(), name="conversation-api"),
    path("conversations/<uuid:conversation_id>/verdicts", VerdictView.as_view(), name="conversation-verdicts"),
    path("query", QueryView.as_view(), name="query"),
    path("sources", SourcesView.as_view(), name="sources-api"),
    path("sources/<str:name>", SourceView.as_view(), name="source-api"),
    path("sources/<str:name>/sync", SyncView.as_view(), name="source-sync-api"),
]
