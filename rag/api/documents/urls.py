"""Routes of collections, documents and index runs, below ``/rag/``.

A document's id may hold slashes, so what can be done to it follows its id: no id ends with the name of an action.
"""

from django.urls import path

from rag.api.documents import views

DOCUMENT = "collections/<str:slug>/documents/<path:document_id>"

urlpatterns = [
    path("collections", views.CollectionsView.as_view(), name="collections-api"),
    path("collections/<str:slug>", views.CollectionDetailView.as_view(), name="collection-api"),
    path("documents", views.DocumentsView.as_view(), name="documents-api"),
    path(f"{DOCUMENT}/original", views.OriginalView.as_view(), name="document-original-api"),
    path(f"{DOCUMENT}/restore", views.RestoreView.as_view(), name="document-restore-api"),
    path(f"{DOCUMENT}/reindex", views.ReindexView.as_view(), name="document-reindex-api"),
    path(DOCUMENT, views.DocumentDetailView.as_view(), name="document-api"),
    path("index-runs/<uuid:run_id>", views.IndexRunView.as_view(), name="index-run-api"),
]
