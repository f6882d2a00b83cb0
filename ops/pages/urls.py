"""Pages of operations."""

from __future__ import annotations

from django.urls import path

from ops.pages import dashboard

urlpatterns = [
    path("dashboard/", dashboard.page, name="dashboard"),
    path("dashboard/data", dashboard.data, name="dashboard-data"),
]
