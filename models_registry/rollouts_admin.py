"""Rollouts in the admin: start one, watch its variants side by side, and act with one click."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.views.decorators.http import require_POST

from models_registry import rollouts, space_builds, weights
from models_registry.deployments import Deployable
from models_registry.figures import figures_of
from models_registry.guardrails import GUARDRAILS
from models_registry.models import ModelStat, ModelVersion, Rollout, RolloutKey, RolloutMode, SpaceBuild
from models_registry.rollouts import DEFAULT_STEPS, Plan
from models_registry.scopes import readable_scope
from models_registry.sketch import quantile
from ops.admin import ReadOnlyAdmin, principal_of
from ops.contracts.problems import Problem

ROWS = (
    ("answers", "Answers", "number"),
    ("p50_ms", "Median", "ms"),
    ("p95_ms", "95th percentile", "ms"),
    ("error_rate", "Failed or degraded", "share"),
    ("empty_rate", "Without a result", "share"),
    ("click_rate", "Click-through", "share"),
    ("votes", "Votes", "number"),
    ("downvote_rate", "Votes that are down", "share"),
)
SHADOW_ROWS = (
    ("compared", "Rankings compared", "number"),
    ("overlap", "Rank-biased overlap", "plain"),
    ("top10_changes", "Others among the first ten", "plain"),
)

ACTIONS = {
    "running": (("step", "Next step"), ("pause", "Pause"), ("promote", "Promote"), ("abort", "Abort")),
    "paused": (("resume", "Go on"), ("promote", "Promote"), ("abort", "Abort")),
}


class StartForm(forms.Form):
    """A candidate and its plan. Either a version, or two weights."""

    version = forms.ModelChoiceField(
        ModelVersion.objects.none(), required=False, help_text="A ranker or an embedder; empty for fusion weights."
    )
    ltr = forms.FloatField(required=False, label="LTR weight")
    conceptual = forms.FloatField(required=False, label="Conceptual weight")
    collection = forms.CharField(required=False, max_length=64, help_text="A collection's slug; empty: everywhere.")
    mode = forms.ChoiceField(choices=RolloutMode.choices, help_text="A shadow is computed and compared, never served.")
    steps = forms.CharField(
        initial=", ".join(f"{share:g}" for share in DEFAULT_STEPS),
        help_text="Rising shares of the traffic in per cent.",
    )
    automatic = forms.BooleanField(required=False, help_text="Take the steps, and promote at the end, by itself.")
    step_minutes = forms.FloatField(initial=60, help_text="Least time of an automatic step.")
    key = forms.ChoiceField(choices=RolloutKey.choices, help_text="What always gets the same variant.")
    key_name = forms.CharField(required=False, max_length=100, help_text="Of the header or cookie.")
    reason = forms.CharField(
        max_length=2000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Kept in the history."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        versions = ModelVersion.objects.filter(model__kind__in=("ltr", "embedder")).select_related("model")
        self.fields["version"].queryset = versions  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        pair = [cleaned.get("ltr"), cleaned.get("conceptual")]
        if cleaned.get("version") and pair != [None, None]:
            self.add_error("version", "Choose a version or give two weights, not both.")
        elif not cleaned.get("version") and None in pair:
            self.add_error("ltr", "Give both weights, or choose a version above.")
        try:
            cleaned["shares"] = [float(part) for part in cleaned.get("steps", "").split(",")]
        except ValueError:
            self.add_error("steps", "Write the shares as 5, 25, 100.")
        return cleaned

    def start(self, request: HttpRequest) -> Rollout:
        """Raises `Problem`."""
        given = self.cleaned_data
        principal = principal_of(request)
        plan = Plan(
            mode=RolloutMode(given["mode"]),
            key=RolloutKey(given["key"]),
            key_name=given["key_name"],
            steps=given["shares"],
            automatic=given["automatic"],
            step_minutes=given["step_minutes"],
        )
        candidate: Deployable = given["version"] or weights.create_version(
            weights.propose(given["ltr"], given["conceptual"]), by=principal, reason=given["reason"]
        )
        scope = readable_scope(given["collection"] or None, principal)
        return rollouts.start(candidate, scope, plan, by=principal, reason=given["reason"])


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state", "mode", "share", "by", "reason", "started_at", "ended_at")
    list_filter = ("state", "slot", "mode")
    change_form_template = "admin/models_registry/rollout.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Rollout]:
        return rollouts.everything()

    @admin.display(description="share")
    def share(self, rollout: Rollout) -> str:
        return f"{rollout.percent:g} %" if rollout.state == "running" else "–"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.add_deployment")

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:number>/figures/", wrap(self.figures_view), name="rollout_figures"),
            path("<int:number>/act/<slug:action>/", wrap(require_POST(self.act_view)), name="rollout_act"),
            *super().get_urls(),
        ]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = StartForm(request.POST or None)
        if form.is_valid():
            try:
                rollout = form.start(request)
            except Problem as problem:
                for field, fault in problem.errors.items():
                    form.add_error(field if field in form.fields else None, fault)
                if not problem.errors:
                    form.add_error(None, str(problem))
            else:
                self.message_user(request, f"{rollout} has {rollout.percent:g} % of the traffic.", messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:models_registry_rollout_change", args=[rollout.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": "Start a rollout",
            "opts": self.opts,
            "form": form,
            "guardrails": GUARDRAILS.values(),
        }
        return TemplateResponse(request, "admin/models_registry/start_rollout.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        number = int(object_id) if object_id.isdecimal() and len(object_id) < 18 else 0
        rollout = get_object_or_404(rollouts.everything(), pk=number)
        context = {
            **self.admin_site.each_context(request),
            "title": str(rollout),
            "opts": self.opts,
            "actions": ACTIONS.get(rollout.state, ()) if self.has_add_permission(request) else (),
            "shares": rollout.deployments.order_by("-id"),
            **_live(rollout),
        }
        return TemplateResponse(request, self.change_form_template, context)

    def figures_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """The part of the page that is fetched again every two seconds."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        rollout = get_object_or_404(rollouts.everything(), pk=number)
        return TemplateResponse(request, "admin/models_registry/rollout_figures.html", _live(rollout))

    def act_view(self, request: HttpRequest, number: int, action: str) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        rollout = get_object_or_404(rollouts.everything(), pk=number)
        if action in dict(ACTIONS.get(rollout.state, ())):
            try:
                rollout = getattr(rollouts, action)(
                    number, by=principal_of(request), reason=request.POST.get("reason", "")[:2000]
                )
                self.message_user(request, f"{rollout}: {rollout.get_state_display()}.", messages.SUCCESS)
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)
        else:
            self.message_user(request, f"{rollout} is {rollout.get_state_display()}.", messages.ERROR)
        return HttpResponseRedirect(reverse("admin:models_registry_rollout_change", args=[number]))


@admin.register(SpaceBuild)
class SpaceBuildAdmin(ReadOnlyAdmin):
    """Embedding spaces that are filled in the background; reload to see how far."""

    list_display = ("id", "version", "scope", "state", "progress", "rate", "checked", "by", "created_at", "failure")
    list_filter = ("state",)
    list_select_related = ("version__model",)
    actions = ("switch", "cancel", "drop")

    @admin.display(description="passages")
    def progress(self, build: SpaceBuild) -> str:
        share = f" ({build.done / build.total:.0%})" if build.total else ""
        return f"{build.done:,} of {build.total:,}{share}"

    @admin.display(description="per minute")
    def rate(self, build: SpaceBuild) -> str:
        return f"{build.chunks_per_minute:,}" if build.chunks_per_minute else "as fast as it goes"

    @admin.display(description="check")
    def checked(self, build: SpaceBuild) -> str:
        return "; ".join(space_builds.losses(build.check_result)) or ("passed" if build.check_result else "–")

    @admin.action(description="Switch to the space", permissions=["act"])
    def switch(self, request: HttpRequest, queryset: QuerySet[SpaceBuild]) -> None:
        self._act(request, queryset, space_builds.switch)

    @admin.action(description="Cancel the build", permissions=["act"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[SpaceBuild]) -> None:
        self._act(request, queryset, space_builds.cancel)

    @admin.action(description="Drop the vectors that the switch left behind", permissions=["act"])
    def drop(self, request: HttpRequest, queryset: QuerySet[SpaceBuild]) -> None:
        self._act(request, queryset, space_builds.drop)

    def has_act_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.add_deployment")

    def _act(self, request: HttpRequest, queryset: QuerySet[SpaceBuild], change: Callable[..., Any]) -> None:
        for build in queryset:
            try:
                change(build.pk, by=principal_of(request))
                state = SpaceBuild.objects.get(pk=build.pk).get_state_display()
                self.message_user(request, f"{build} is {state}.", messages.SUCCESS)
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)


@admin.register(ModelStat)
class ModelStatAdmin(ReadOnlyAdmin):
    """What each version did, by the quarter of an hour."""

    list_display = ("started_at", "kind", "model", "calls", "errors", "items", "tokens", "p50", "p95", "p99")
    list_filter = ("kind",)
    search_fields = ("model",)
    date_hierarchy = "started_at"

    @admin.display(description="p50 (ms)")
    def p50(self, stat: ModelStat) -> str:
        return _percentile(stat, 0.5)

    @admin.display(description="p95 (ms)")
    def p95(self, stat: ModelStat) -> str:
        return _percentile(stat, 0.95)

    @admin.display(description="p99 (ms)")
    def p99(self, stat: ModelStat) -> str:
        return _percentile(stat, 0.99)


def _percentile(stat: ModelStat, fraction: float) -> str:
    value = quantile({int(bucket): count for bucket, count in stat.buckets.items()}, fraction)
    return "–" if value is None else f"{value:.1f}"


def _live(rollout: Rollout) -> dict[str, Any]:
    """What the figures' template needs."""
    figures = figures_of(rollout)
    rows = [*ROWS, *(SHADOW_ROWS if rollout.mode == RolloutMode.SHADOW else ())]
    table = [
        (label, _shown(figures["candidate"][name], kind), _shown(figures["stable"][name], kind))
        for name, label, kind in rows
    ] if figures else []  # fmt: skip
    readings = rollout.readings if not rollout.is_open else figures["readings"] if figures else []
    return {"rollout": rollout, "table": table, "readings": readings, "is_away": figures is None}


def _shown(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return {"share": f"{value:.2%}", "ms": f"{value:.1f} ms", "number": f"{value:,.0f}"}.get(kind, f"{value:.3g}")
