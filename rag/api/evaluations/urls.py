"""Routes below ``/registry/``: what is measured belongs to retrieval, what is live to the registry."""

from django.urls import path

from rag.api.evaluations import views

urlpatterns = [
    path("evaluations", views.EvaluationsView.as_view(), name="registry-evaluations"),
    path("evaluations/compare", views.CompareView.as_view(), name="registry-evaluations-compare"),
    path("evaluations/<int:evaluation_id>", views.EvaluationView.as_view(), name="registry-evaluation"),
    path(
        "evaluations/<int:evaluation_id>/queries",
        views.EvaluationQueriesView.as_view(),
        name="registry-evaluation-queries",
    ),
]
