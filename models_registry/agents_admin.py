"""Agents in the admin: they are edited here, by the service that the API uses."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from models_registry.agents import choices, delete_agent, not_downloaded, save_agent
from models_registry.models import Agent
from ops.admin import principal_of
from ops.contracts.problems import InvalidRequest


class AgentForm(forms.ModelForm[Agent]):
    class Meta:
        model = Agent
        fields = "__all__"  # noqa: DJ007  (every field is meant to be edited)
        labels = {
            "is_default": "The default",
            "is_enabled": "Can be asked",
            "model_order": "Models, first choice first",
            "latency_objective_ms": "Latency objective (ms)",
            "top_k": "Passages",
        }
        widgets = {
            name: forms.TextInput(attrs={"class": "vLargeTextField"})
            for name in ("description", "model_order", "collections")
        }

    def clean_model_order(self) -> list[str]:
        from models_registry.agents import is_reference

        order: list[str] = self.cleaned_data["model_order"]
        for name in order:
            if not is_reference(name):
                raise forms.ValidationError(f"'{name}' names no model: write extractive, ollama/NAME or openai/NAME.")
        return order


@admin.register(Agent)
class AgentAdmin(admin.ModelAdmin[Agent]):
    form = AgentForm
    list_display = ("name", "description", "model_names", "state")
    list_filter = ("is_enabled",)
    search_fields = ("name", "slug", "description")
    prepopulated_fields = {"slug": ("name",)}
    readonly_fields = ("standing", "updated_at")
    fieldsets = (
        (None, {"fields": ("name", "slug", "description", "persona", "voice", "is_default", "is_enabled")}),
        ("Models", {"fields": ("model_order", "standing", "selection", "latency_objective_ms")}),
        ("Answers", {"fields": ("temperature", "max_tokens", "context_tokens", "abstains")}),
        ("Retrieval", {"fields": ("collections", "top_k")}),
        (None, {"fields": ("updated_at",)}),
    )

    @admin.display(description="models, first choice first")
    def model_names(self, agent: Agent) -> str:
        return ", ".join(agent.model_order) or "—"

    @admin.display(description="state", ordering="is_enabled")
    def state(self, agent: Agent) -> str:
        if agent.is_default:
            return "★ the default"
        return "can be asked" if agent.is_enabled else "– off"

    @admin.display(description="as it stands")
    def standing(self, agent: Agent) -> SafeString | str:
        """The order in which the models are tried just now, and why."""
        if agent.pk is None:
            return "Known once the agent is saved."
        missing = not_downloaded(agent.model_order)
        rows = format_html_join(
            "",
            "<li><strong>{}</strong> – {}{}</li>",
            ((one.model, one.reason, _how_to_get(one.model) if one.model in missing else "") for one in choices(agent)),
        )
        return format_html("<ol>{}</ol>", rows)

    def save_model(self, request: HttpRequest, obj: Agent, form: Any, change: bool) -> None:
        try:
            save_agent(obj, principal_of(request))
        except InvalidRequest as problem:  # the form has checked what it can
            raise forms.ValidationError(str(problem)) from problem

    def delete_model(self, request: HttpRequest, obj: Agent) -> None:
        delete_agent(obj, principal_of(request))

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for agent in queryset:
            delete_agent(agent, principal_of(request))


def _how_to_get(model: str) -> SafeString:
    return format_html(
        " Its server did not have it when it was last looked at; this downloads it: "
        "<code>manage.py answers pull {}</code>",
        model.removeprefix("ollama/"),
    )
