"""The registry in the admin: facts are read-only, changes go through the services and ask for a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import redis
from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from models_registry import agents_admin, deployments, past, processes, serving, versions, weights_admin  # noqa: F401
from models_registry.metric_plots import metric_plots
from models_registry.models import (
    GLOBAL_SCOPE,
    Artifact,
    Deployment,
    FusionWeights,
    Model,
    ModelVersion,
    Role,
    TrainingRun,
)
from models_registry.scopes import readable_scope
from ops.admin import ReadOnlyAdmin, principal_of
from ops.contracts.problems import Problem

COLLECTION_HELP = "A collection's slug; empty: every collection without a choice of its own."


class ActivationForm(forms.Form):
    """Where something is to become live, and why."""

    collection = forms.CharField(required=False, max_length=64, help_text=COLLECTION_HELP)
    reason = forms.CharField(
        max_length=2000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Kept in the history."
    )


class ActivatableAdmin(ReadOnlyAdmin):
    """Rows that can be put live: the action asks where and why, then calls the one service for it."""

    actions = ("activate",)

    @admin.action(description="Activate…", permissions=["activate"])
    def activate(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        if queryset.count() != 1:
            self.message_user(request, "Choose exactly one row to activate.", messages.ERROR)
            return None
        thing = queryset.get()
        form = ActivationForm(request.POST if "confirmed" in request.POST else None)
        if form.is_valid():
            try:
                scope = readable_scope(form.cleaned_data["collection"] or None, principal_of(request))
                row = deployments.activate(
                    deployments.slot_of(thing),
                    thing,
                    scope,
                    by=principal_of(request),
                    reason=form.cleaned_data["reason"],
                )
            except Problem as problem:
                form.add_error(None, str(problem))
            else:
                self.message_user(request, f"Live now: {row}.", messages.SUCCESS)
                return None
        context = {
            **self.admin_site.each_context(request),
            "title": f"Activate {thing}",
            "opts": self.opts,
            "thing": thing,
            "form": form,
            "action_checkbox_name": helpers.ACTION_CHECKBOX_NAME,
        }
        return TemplateResponse(request, "admin/models_registry/activate.html", context)

    def has_activate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.add_deployment")


@admin.register(Model)
class ModelAdmin(ReadOnlyAdmin):
    """A model's page shows its versions, where each is live and in memory, and their metrics as plots."""

    list_display = ("name", "kind", "provider", "newest", "live_in", "description", "created_at")
    list_filter = ("kind", "provider")
    search_fields = ("name", "description")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Model]:
        return versions.overview()

    @admin.display(description="newest")
    def newest(self, model: Model) -> str:
        return "" if model.newest_number is None else f"@{model.newest_number}"

    @admin.display(description="live in")
    def live_in(self, model: Model) -> str:
        return ", ".join(f"@{place['number']} {_where(place['scope'], place['role'])}" for place in model.live)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        rows = ModelVersion.objects.filter(model_id=object_id) if object_id.isdecimal() else ModelVersion.objects.none()
        listed = list(rows.select_related("model", "training_run").prefetch_related("deployments"))
        held = _held()
        context = {
            "versions": [
                {
                    "version": version,
                    "live": [_where(row.scope, row.role) for row in version.deployments.all() if row.ended_at is None],
                    "held": held.get(str(version), []),
                    "waits": _waits(version),
                }
                for version in listed
            ],
            "plots": metric_plots(listed),
        }
        return super().change_view(request, object_id, form_url, {**(extra_context or {}), **context})


@admin.register(ModelVersion)
class ModelVersionAdmin(ActivatableAdmin):
    list_display = ("__str__", "kind", "status", "live_in", "source", "created_at")
    list_filter = ("status", "model__kind", "model")
    list_select_related = ("model",)
    search_fields = ("model__name",)
    fields = (
        *("model", "number", "status", "status_detail", "created_at", "files", "source", "seen_at"),
        *("training_run", "dataset_sha256", "code_revision", "shown_parameters", "shown_metrics", "shown_provenance"),
    )
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[ModelVersion]:
        return super().get_queryset(request).prefetch_related("deployments")

    @admin.display(ordering="model__kind")
    def kind(self, version: ModelVersion) -> str:
        return version.model.get_kind_display()

    @admin.display(description="live in")
    def live_in(self, version: ModelVersion) -> str:
        return _live_in(version)

    @admin.display(description="files (role, sha256)")
    def files(self, version: ModelVersion) -> SafeString:
        return format_html_join("", "<div>{}: <code>{}</code></div>", sorted(version.artifacts.items()))

    @admin.display(description="parameters")
    def shown_parameters(self, version: ModelVersion) -> SafeString:
        return _as_code(version.parameters)

    @admin.display(description="metrics")
    def shown_metrics(self, version: ModelVersion) -> SafeString:
        return _as_code(version.metrics)

    @admin.display(description="provenance")
    def shown_provenance(self, version: ModelVersion) -> SafeString:
        return _as_code(version.provenance)


@admin.register(Artifact)
class ArtifactAdmin(ReadOnlyAdmin):
    list_display = ("filename", "sha256", "size_bytes", "stored_at")
    search_fields = ("filename", "sha256")


@admin.register(Deployment)
class DeploymentAdmin(ReadOnlyAdmin):
    """The history, as it happened."""

    list_display = ("started_at", "ended_at", "scope", "slot", "role", "what", "by", "reason")
    list_filter = (("ended_at", admin.EmptyFieldListFilter), "slot", "scope", "role")
    list_select_related = ("model_version__model", "weights")
    search_fields = ("scope", "by", "reason", "model_version__model__name")
    date_hierarchy = "started_at"

    def get_urls(self) -> list[Any]:
        past_path = path("past/", self.admin_site.admin_view(self.past_view), name="models_registry_deployment_past")
        return [past_path, *super().get_urls()]

    def past_view(self, request: HttpRequest) -> HttpResponse:
        """Everything that answered at a moment, with who put it live and why."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        moment, fault = timezone.now(), ""
        if asked := request.GET.get("at"):
            try:
                given = datetime.fromisoformat(asked)
                moment = given if given.tzinfo else given.replace(tzinfo=UTC)
            except ValueError:
                fault = "Write a time as 2026-03-01T09:30:00."
        context = {
            **self.admin_site.each_context(request),
            "title": "What was live",
            "opts": self.opts,
            "moment": moment,
            "fault": fault,
            "found": [] if fault else past.what_was_live(moment, principal_of(request)),
        }
        return TemplateResponse(request, "admin/models_registry/deployment/past.html", context)

    @admin.display(description="what")
    def what(self, deployment: Deployment) -> str:
        return str(deployment.model_version or deployment.weights)


@admin.register(FusionWeights)
class FusionWeightsAdmin(ReadOnlyAdmin):
    """One page for the job instead of a list and a form: `weights_admin`. A version has a page of its own."""

    fields = ("version", "ltr", "conceptual", "shares", "live_in", "author", "reason", "created_at")
    readonly_fields = fields

    def get_urls(self) -> list[Any]:
        return [*weights_admin.urls(self._guarded), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {**self.admin_site.each_context(request), "opts": self.opts, **(extra_context or {})}
        return weights_admin.page(request, context)

    @admin.display(description="normalized")
    def shares(self, version: FusionWeights) -> str:
        ltr, conceptual = version.normalized
        return f"{ltr:.1%} / {conceptual:.1%}"

    @admin.display(description="live in")
    def live_in(self, version: FusionWeights) -> str:
        return _live_in(version)

    def _guarded(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """A view for those who may see the weights."""

        def checked(request: HttpRequest, *arguments: Any, **options: Any) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            return view(request, *arguments, **options)

        return self.admin_site.admin_view(checked)


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnlyAdmin):
    list_display = ("started_at", "recipe", "by", "code_revision", "finished_at")
    search_fields = ("=id", "recipe", "code_revision")
    fields = (
        *("id", "recipe", "by", "started_at", "finished_at", "code_revision"),
        *("shown_datasets", "shown_parameters", "shown_metrics"),
    )
    readonly_fields = fields

    @admin.display(description="datasets")
    def shown_datasets(self, run: TrainingRun) -> SafeString:
        return _as_code(run.datasets)

    @admin.display(description="parameters")
    def shown_parameters(self, run: TrainingRun) -> SafeString:
        return _as_code(run.parameters)

    @admin.display(description="metrics")
    def shown_metrics(self, run: TrainingRun) -> SafeString:
        return _as_code(run.metrics)


def _waits(version: ModelVersion) -> bool:
    """Whether it is live, and loaded by nobody before somebody needs it."""
    is_live = any(row.ended_at is None for row in version.deployments.all())
    return is_live and serving.starts_on_demand(deployments.slot_of(version), version.model.provider)


def _held() -> dict[str, list[dict[str, Any]]]:
    """Which processes hold which version, by ``name@number``; nothing while Redis is away."""
    held: dict[str, list[dict[str, Any]]] = {}
    try:
        reports = processes.all_reports()
    except (redis.RedisError, OSError):
        return held
    for process in reports:
        for report in process.models:
            facts = {"process": process.name, "state": report.state, "error": report.error}
            held.setdefault(report.label, []).append(facts | {"memory_bytes": report.memory_bytes})
    return held


def _where(scope: str, role: str) -> str:
    where = "everywhere" if scope == GLOBAL_SCOPE else f"in {scope}"
    return where if role == Role.STABLE else f"{where} ({role})"


def _live_in(thing: ModelVersion | FusionWeights) -> str:
    scopes = sorted(row.scope for row in thing.deployments.all() if row.ended_at is None)
    return ", ".join("everywhere" if scope == GLOBAL_SCOPE else scope for scope in scopes)


def _as_code(facts: object) -> SafeString:
    return format_html("<pre>{}</pre>", json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True))


# At the end, because it builds on the classes above: Django looks for this module alone.
from models_registry import rollouts_admin, space_builds_admin  # noqa: E402, F401
