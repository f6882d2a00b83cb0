"""Rollouts in the admin: start one, watch its variants side by side, and act with one click."""

from __future__ import annotations

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

from models_registry import rollouts, weights
from models_registry.deployments import Deployable
from models_registry.figures import figures_of
from models_registry.guardrails import ALPHA, FOR_CANARY, FOR_SHADOW, GUARDRAILS, MIN_SAMPLES
from models_registry.models import ModelStat, ModelVersion, Rollout, RolloutKey, RolloutMode, RolloutState
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
TAKE_BACK = ("take_back", "Roll back")
"""Of a promoted candidate, while it is what is stable."""


def actions_of(rollout: Rollout) -> tuple[tuple[str, str], ...]:
    """What can be done with a rollout in its state, the likeliest first."""
    if rollout.state == RolloutState.PROMOTED and rollouts.is_stable(rollout):
        return (TAKE_BACK,)
    return ACTIONS.get(rollout.state, ())


LIMIT = "limit_"
"""What the fields of guardrails' limits begin with."""
JUDGING = ("min_samples", "alpha")


class StartForm(forms.Form):
    """A candidate and its plan. Either a version, or two weights."""

    version = forms.ModelChoiceField(
        ModelVersion.objects.none(),
        required=False,
        empty_label="The two fusion weights",
        help_text="A ranker or an embedder; or else two weights, which the page of the weights compares beforehand.",
    )
    ltr = forms.FloatField(required=False, label="LTR weight", help_text="Only the ratio of the two matters.")
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
    min_samples = forms.IntegerField(
        initial=MIN_SAMPLES, help_text="The candidate's answers since the last step before which nothing is judged."
    )
    alpha = forms.FloatField(
        initial=ALPHA,
        label="False alarms",
        help_text="How often a candidate that is as good as the stable version may be rolled back at most, as a share.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for guardrail in GUARDRAILS.values():
            self.fields[LIMIT + guardrail.name] = forms.FloatField(
                required=False,
                initial=guardrail.limit,
                label=guardrail.name,
                help_text=f"{guardrail.help} From {guardrail.smallest:g} to {guardrail.largest:g}.",
                widget=forms.NumberInput(attrs={"step": "any", "min": guardrail.smallest, "max": guardrail.largest}),
            )
        versions = ModelVersion.objects.filter(model__kind__in=("ltr", "embedder")).select_related("model")
        self.fields["version"].queryset = versions  # type: ignore[attr-defined]

    @property
    def plan_fields(self) -> list[forms.BoundField]:
        """What comes before the guardrails."""
        return [field for field in self if not field.name.startswith(LIMIT) and field.name not in JUDGING]

    @property
    def judging_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in JUDGING]

    @property
    def limits(self) -> list[tuple[forms.BoundField, str]]:
        """Each guardrail's field, and the mode that it is for where it is for one alone."""
        return [(self[LIMIT + name], _only_for(name)) for name in GUARDRAILS]

    def add_problem(self, problem: Problem) -> None:
        """Show what is wrong beside the fields that it is about."""
        for name, fault in problem.errors.items():
            field = name.replace("guardrails.", LIMIT)
            self.add_error(field if field in self.fields else None, fault)
        if not problem.errors:
            self.add_error(None, str(problem))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        names = FOR_SHADOW if cleaned.get("mode") == RolloutMode.SHADOW else FOR_CANARY
        # One whose limit was emptied is left out; one whose limit can't be read has said so.
        cleaned["guardrails"] = {name: cleaned.get(LIMIT + name) for name in names}
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
            guardrails=given["guardrails"],
            min_samples=given["min_samples"],
            alpha=given["alpha"],
        )
        rollouts.require_usable(plan)  # before weights are made for it that nobody would use
        candidate: Deployable = given["version"] or weights.create_version(
            weights.propose(given["ltr"], given["conceptual"]), by=principal, reason=given["reason"]
        )
        scope = readable_scope(given["collection"] or None, principal)
        return rollouts.start(candidate, scope, plan, by=principal, reason=given["reason"])


@admin.register(Rollout)
class RolloutAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state", "share", "by", "reason", "started_at")
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
                form.add_problem(problem)
            else:
                self.message_user(request, f"{rollout} has {rollout.percent:g} % of the traffic.", messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:models_registry_rollout_change", args=[rollout.pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": "Start a rollout",
            "opts": self.opts,
            "form": form,
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
            "actions": actions_of(rollout) if self.has_add_permission(request) else (),
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
        if action in dict(actions_of(rollout)):
            try:
                found = getattr(rollouts, action)(
                    number, by=principal_of(request), reason=request.POST.get("reason", "")[:2000]
                )
                said = f"{found.get_state_display()}." if isinstance(found, Rollout) else f"back to {found}."
                self.message_user(request, f"{rollout}: {said}", messages.SUCCESS)
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)
        else:
            self.message_user(request, f"{rollout} is {rollout.get_state_display()}.", messages.ERROR)
        return HttpResponseRedirect(reverse("admin:models_registry_rollout_change", args=[number]))


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


def _only_for(guardrail: str) -> str:
    if guardrail in FOR_CANARY and guardrail in FOR_SHADOW:
        return ""
    return RolloutMode.CANARY.label if guardrail in FOR_CANARY else RolloutMode.SHADOW.label


def _percentile(stat: ModelStat, fraction: float) -> str:
    value = quantile({int(bucket): count for bucket, count in stat.buckets.items()}, fraction)
    return "–" if value is None else f"{value:.1f}"


def _live(rollout: Rollout) -> dict[str, Any]:
    """What the figures' template needs."""
    figures = figures_of(rollout)
    rows = [*ROWS, *(SHADOW_ROWS if rollout.mode == RolloutMode.SHADOW else ())]
    table = (
        [_row(label, figures["candidate"][name], figures["stable"][name], kind) for name, label, kind in rows]
        if figures
        else []
    )
    readings = rollout.readings if not rollout.is_open else figures["readings"] if figures else []
    return {"rollout": rollout, "table": table, "readings": readings, "is_away": figures is None}


def _row(label: str, candidate: float | None, stable: float | None, kind: str) -> dict[str, Any]:
    """One figure of both variants as the template draws it: texts, the difference, and bars that share a scale."""
    largest = max(candidate or 0.0, stable or 0.0)
    return {
        "label": label,
        "candidate": _shown(candidate, kind),
        "stable": _shown(stable, kind),
        "difference": _difference(candidate, stable, kind),
        # How many answered says nothing of who is better: that is what their shares make it.
        "bars": [] if kind == "number" or not largest else [
            ("candidate", 100 * (candidate or 0.0) / largest),
            ("stable", 100 * (stable or 0.0) / largest),
        ],
    }  # fmt: skip


def _difference(candidate: float | None, stable: float | None, kind: str) -> str:
    if candidate is None or stable is None or kind in {"number", "plain"}:
        return ""
    if kind == "share":
        return f"{100 * (candidate - stable):+.2f} points"
    return f"{candidate / stable:.2f} times" if stable else ""


def _shown(value: float | None, kind: str) -> str:
    if value is None:
        return "–"
    return {"share": f"{value:.2%}", "ms": f"{value:.1f} ms", "number": f"{value:,.0f}"}.get(kind, f"{value:.3g}")
