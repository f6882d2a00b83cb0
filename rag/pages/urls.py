"""The pages of retrieval, relative to the site's root."""

from django.urls import path

from rag.chat import pages as chat
from rag.pages import actions, collections, documents, evaluations, originals, runs, search, uploads

urlpatterns = [
    path("", chat.chat_page, name="front"),
    path("c/<uuid:conversation_id>/", chat.chat_page, name="conversation"),
    path("shared/<uuid:share_id>/", chat.shared_page, name="shared-conversation"),
    path("passages/<int:pk>/", chat.passage, name="passage"),
    path("search/", search.search_page, name="search"),
    path("documents/", documents.document_list, name="documents"),
    path("documents/upload/", uploads.upload, name="upload"),
    path("documents/<int:pk>/", documents.document, name="document"),
    path("documents/<int:pk>/original/", originals.original, name="document-original"),
    path("documents/<int:pk>/reindex/", actions.reindex, name="document-reindex"),
    path("documents/<int:pk>/delete/", actions.delete, name="document-delete"),
    path("documents/<int:pk>/restore/", actions.restore, name="document-restore"),
    path("documents/collections/", collections.collection_list, name="collections"),
    path("documents/collections/<str:slug>/", collections.collection, name="collection"),
    path("documents/collections/<str:slug>/delete/", collections.collection_delete, name="collection-delete"),
    path("documents/runs/", runs.run_list, name="index-runs"),
    path("documents/runs/<uuid:run_id>/", runs.run_detail, name="index-run"),
    path("documents/runs/<uuid:run_id>/card/", runs.run_card, name="index-run-card"),
    path("evaluations/", evaluations.evaluation_list, name="evaluations"),
    path("evaluations/compare/", evaluations.evaluation_compare, name="evaluations-compare"),
    path("evaluations/<int:run_id>/", evaluations.evaluation_detail, name="evaluation"),
]
