"""Routes of operations, and the API's own description."""

from __future__ import annotations

from django.urls import path

from ops.api import documents, views

urlpatterns = [
    path("health/live", views.LiveView.as_view(), name="health-live"),
    path("health/ready", views.ReadyView.as_view(), name="health-ready"),
    path("metrics", views.PrometheusView.as_view(), name="metrics"),
    path("metrics/basic", views.BasicMetricsView.as_view(), name="metrics-basic"),
    path("metrics/json", views.JsonMetricsView.as_view(), name="metrics-json"),
    path("config/env", views.EnvironmentView.as_view(), name="config-env"),
    path("config/validate", views.ValidationView.as_view(), name="config-validate"),
    path("api/schema/", documents.SchemaView.as_view(), name="api-schema"),
    path("api/docs/", documents.DocumentationView.as_view(), name="api-docs"),
]
