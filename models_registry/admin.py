"""The registry in the admin: facts are read-only, changes go through the services and ask for a reason."""

from __future__ import annotations

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin import helpers
from django.db.models import Model as DjangoModel
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from models_registry import deployments, weights
from models_registry.models import GLOBAL_SCOPE, Artifact, Deployment, FusionWeights, Model, ModelVersion
from models_registry.scopes import readable_scope
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest, Problem

COLLECTION_HELP = "A collection's slug; empty: every collection without a choice of its own."


class ActivationForm(forms.Form):
    """Where something is to become live, and why."""

    collection = forms.CharField(required=False, max_length=64, help_text=COLLECTION_HELP)
    reason = forms.CharField(
        max_length=2000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Kept in the history."
    )


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Rows that are looked at, never edited in place."""

    def has_change_permission(self, request: HttpRequest, obj: DjangoModel | None = None) -> bool:
        return False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: DjangoModel | None = None) -> bool:
        return False


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
    list_display = ("name", "kind", "provider", "description", "created_at")
    list_filter = ("kind", "provider")
    search_fields = ("name", "description")


@admin.register(ModelVersion)
class ModelVersionAdmin(ActivatableAdmin):
    list_display = ("__str__", "kind", "live_in", "created_at")
    list_filter = ("model__kind", "model")
    list_select_related = ("model",)
    search_fields = ("model__name",)
    fields = ("model", "number", "created_at", "files", "shown_parameters", "shown_metrics", "shown_provenance")
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

    @admin.display(description="what")
    def what(self, deployment: Deployment) -> str:
        return str(deployment.model_version or deployment.weights)


class NewWeightsForm(forms.ModelForm[FusionWeights]):
    """A version that becomes live as soon as it is saved."""

    principal: Principal

    collection = forms.CharField(required=False, max_length=64, help_text=COLLECTION_HELP)
    reason = forms.CharField(max_length=2000, widget=forms.Textarea(attrs={"rows": 3}))

    class Meta:
        model = FusionWeights
        fields = ("ltr", "conceptual", "reason")

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if "ltr" in cleaned and "conceptual" in cleaned:
            try:
                weights.propose(cleaned["ltr"], cleaned["conceptual"])
            except InvalidRequest as problem:
                for field, fault in problem.errors.items():
                    self.add_error(field, f"This {fault}.")
        try:
            cleaned["scope"] = readable_scope(cleaned.get("collection") or None, self.principal)
        except Problem as problem:
            self.add_error("collection", str(problem))
        return cleaned


@admin.register(FusionWeights)
class FusionWeightsAdmin(ActivatableAdmin):
    list_display = ("version", "ltr", "conceptual", "shares", "live_in", "author", "reason", "created_at")
    search_fields = ("author", "reason")
    fields = ("version", "ltr", "conceptual", "shares", "author", "reason", "created_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[FusionWeights]:
        return super().get_queryset(request).prefetch_related("deployments")

    @admin.display(description="normalized")
    def shares(self, version: FusionWeights) -> str:
        ltr, conceptual = version.normalized
        return f"{ltr:.1%} / {conceptual:.1%}"

    @admin.display(description="live in")
    def live_in(self, version: FusionWeights) -> str:
        return _live_in(version)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.add_fusionweights") and self.has_activate_permission(request)

    def get_fields(self, request: HttpRequest, obj: FusionWeights | None = None) -> Any:
        return super().get_fields(request, obj) if obj else ("ltr", "conceptual", "collection", "reason")

    def get_readonly_fields(self, request: HttpRequest, obj: FusionWeights | None = None) -> Any:
        return self.fields if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        if change:
            return super().get_form(request, obj, change, **kwargs)
        return type("Form", (NewWeightsForm,), {"principal": principal_of(request)})

    def save_model(self, request: HttpRequest, obj: FusionWeights, form: Any, change: bool) -> None:
        """Add and activate, both or neither; the row that the form filled is never saved itself."""
        proposed = weights.propose(form.cleaned_data["ltr"], form.cleaned_data["conceptual"])
        row = weights.change(
            proposed, form.cleaned_data["scope"], by=principal_of(request), reason=form.cleaned_data["reason"]
        )
        obj.pk = row.weights_id
        obj.refresh_from_db()


def principal_of(request: HttpRequest) -> Principal:
    """Who uses the admin, as the middleware resolved it."""
    principal: Principal = request.principal  # type: ignore[attr-defined]
    return principal


def _live_in(thing: ModelVersion | FusionWeights) -> str:
    scopes = sorted(row.scope for row in thing.deployments.all() if row.ended_at is None)
    return ", ".join("everywhere" if scope == GLOBAL_SCOPE else scope for scope in scopes)


def _as_code(facts: dict[str, Any]) -> SafeString:
    return format_html("<pre>{}</pre>", json.dumps(facts, indent=2, ensure_ascii=False, sort_keys=True))


# At the end, because it builds on the classes above: Django looks for this module alone.
from models_registry import rollouts_admin  # noqa: E402, F401
