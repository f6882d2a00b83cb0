"""The admin's page for fusion weights: choose, look at a query, measure, put live, go back. Thin: services decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from models_registry import deployments, rollouts, tuning, weights
from models_registry.models import GLOBAL_SCOPE, OPEN_ROLLOUTS, Deployment, FusionWeights, Role, Rollout, Slot
from models_registry.scopes import readable_scope
from models_registry.tuning import STEPS, Measurement, Shares
from ops.admin import principal_of
from ops.contracts.principal import Principal
from ops.contracts.problems import PreconditionFailed, Problem
from ops.plots import number

TEMPLATES = "admin/models_registry/fusionweights"
HISTORY_ROWS = 25
MAX_QUERY_CHARACTERS = 1000


class WeightsForm(forms.Form):
    """What the page's form says. ``seen`` is the deployment that its author looked at."""

    ltr = forms.FloatField()
    conceptual = forms.FloatField()
    reason = forms.CharField(required=False, max_length=2000)
    seen = forms.IntegerField(required=False)
    percent = forms.FloatField(required=False, min_value=0.1, max_value=100)


@dataclass(frozen=True, slots=True)
class Change:
    """A row of the history: what was live, and how it differs from what was live before it."""

    deployment: Deployment
    shares: Shares
    before: Shares | None

    @property
    def ltr_percent(self) -> int:
        return round(100 * self.shares.ltr)

    @property
    def difference(self) -> float | None:
        """Of the LTR weight, in hundredths."""
        return None if self.before is None else 100 * (self.shares.ltr - self.before.ltr)


def page(request: HttpRequest, context: dict[str, Any]) -> HttpResponse:
    """The page, and what its buttons do. ``context`` is the admin's own."""
    principal = principal_of(request)
    collection = request.GET.get("collection") or None
    try:
        scope = readable_scope(collection, principal)
    except Problem as problem:
        messages.error(request, str(problem))
        return HttpResponseRedirect(request.path)
    form = WeightsForm(request.POST or None)
    if request.method == "POST":
        if not may_change(request):
            raise PermissionDenied
        action = request.POST.get("do")
        if form.is_valid() or action in {"rollback", "remove"}:
            try:
                if action == "canary":
                    return HttpResponseRedirect(_address_of(_start_canary(form.cleaned_data, scope, principal)))
                messages.success(request, _change(action, form.cleaned_data, scope, principal))
            except Problem as problem:
                for field, fault in problem.errors.items():
                    form.add_error(field, f"This {fault}.")
                if not problem.errors:
                    form.add_error(None, _explained(problem, scope))
            else:
                return HttpResponseRedirect(request.get_full_path())
    return TemplateResponse(request, f"{TEMPLATES}/page.html", context | _page_context(request, form, scope, principal))


@require_GET
def preview(request: HttpRequest) -> HttpResponse:
    """The top of a query under the live and the proposed weights: a part of the page."""
    principal, look = principal_of(request), tuning.preview()
    context: dict[str, Any] = {"query": request.GET.get("query", "").strip()[:MAX_QUERY_CHARACTERS]}
    if look is not None and context["query"]:
        try:
            scope = readable_scope(request.GET.get("asked") or None, principal)
            proposed = _proposed(request.GET)
            context["sides"] = look.sides(context["query"], scope, _live_shares(scope), proposed, principal)
        except Problem as problem:
            context["fault"] = str(problem)
    return TemplateResponse(request, f"{TEMPLATES}/preview.html", context)


@require_POST
def measure(request: HttpRequest) -> HttpResponse:
    """Begin to measure both weights on a judged collection."""
    principal, evaluator = principal_of(request), tuning.evaluator()
    if evaluator is None:
        raise PermissionDenied
    try:
        scope = readable_scope(request.POST.get("judged") or None, principal)
        found = evaluator.start(scope, _live_shares(scope), _proposed(request.POST), principal)
    except Problem as problem:
        return TemplateResponse(request, f"{TEMPLATES}/measurement.html", {"fault": str(problem)})
    return measurement(request, found)


def measurement(request: HttpRequest, measurement_id: str) -> HttpResponse:
    """How far a measurement is, or its figures."""
    evaluator = tuning.evaluator()
    context: dict[str, Any] = {"id": measurement_id}
    try:
        if evaluator is not None:
            found = evaluator.find(measurement_id, principal_of(request))
            context |= {"measurement": found, "plot": _curve(found) if found.curve else None}
    except Problem as problem:
        context["fault"] = str(problem)
    return TemplateResponse(request, f"{TEMPLATES}/measurement.html", context)


def may_change(request: HttpRequest) -> bool:
    """Whether the user may put weights live."""
    return request.user.has_perms(("models_registry.add_fusionweights", "models_registry.add_deployment"))


def _change(action: str | None, answers: dict[str, Any], scope: str, principal: Principal) -> str:
    """Do what a button says; the sentence that tells it."""
    reason, check = answers.get("reason", ""), _unchanged_since(answers.get("seen"))
    where = "everywhere" if scope == GLOBAL_SCOPE else f"in '{scope}'"
    if action == "rollback":
        row = deployments.rollback(Slot.WEIGHTS, scope, by=principal, reason=reason, precondition=check)
        if row is None:
            return f"'{scope}' follows the weights of all collections again."
        return f"Back {where}: {row.weights}."
    if action == "remove":
        deployments.deactivate(Slot.WEIGHTS, scope, by=principal, reason=reason, precondition=check)
        return f"'{scope}' follows the weights of all collections again."
    proposed = weights.propose(answers["ltr"], answers["conceptual"])
    row = weights.change(proposed, scope, by=principal, reason=reason, precondition=check)
    return f"Live {where}: {row.weights}. Every process follows within a second."


def _start_canary(answers: dict[str, Any], scope: str, principal: Principal) -> Rollout:
    """Give the proposed weights a share of the traffic; a new version of them and its rollout, both or neither."""
    percent = answers.get("percent") or rollouts.DEFAULT_STEPS[0]
    plan = rollouts.Plan(steps=(percent, *(step for step in rollouts.DEFAULT_STEPS if step > percent)))
    reason = answers.get("reason", "")
    with transaction.atomic():
        proposed = weights.propose(answers["ltr"], answers["conceptual"])
        version = weights.create_version(proposed, by=principal, reason=reason)
        return rollouts.start(version, scope, plan, by=principal, reason=reason)


def _address_of(rollout: Rollout) -> str:
    return reverse("admin:models_registry_rollout_change", args=[rollout.pk])


def _unchanged_since(seen: int | None) -> deployments.Precondition:
    def check(current: Deployment | None) -> None:
        if current is not None and current.pk != seen:
            raise PreconditionFailed("Somebody else was faster.")

    return check


def _explained(problem: Problem, scope: str) -> str:
    if not isinstance(problem, PreconditionFailed):
        return str(problem)
    row = deployments.effective(Slot.WEIGHTS, scope)
    by = "" if row is None else f" {row.by} put {row.weights} live at {row.started_at:%H:%M:%S} UTC."
    return f"The weights have changed since you opened this page.{by} Look at the comparison again, then decide."


def _page_context(request: HttpRequest, form: WeightsForm, scope: str, principal: Principal) -> dict[str, Any]:
    live = deployments.effective(Slot.WEIGHTS, scope)
    shares = _live_shares(scope)
    changes = _changes(scope)
    look, evaluator = tuning.preview(), tuning.evaluator()
    collections = look.collections(principal) if look is not None else []
    chosen = shares
    under_way = Rollout.objects.filter(scope=scope, slot=Slot.WEIGHTS, state__in=OPEN_ROLLOUTS).first()
    if form.is_bound and "ltr" in form.cleaned_data and "conceptual" in form.cleaned_data and form.errors:
        chosen = _shares_of(form.cleaned_data["ltr"], form.cleaned_data["conceptual"]) or shares
    return {
        "title": "Fusion weights",
        "form": form,
        "scope": scope,
        "is_global": scope == GLOBAL_SCOPE,
        "scopes": collections,
        "own_scopes": set(
            deployments.live().filter(slot=Slot.WEIGHTS, role=Role.STABLE).values_list("scope", flat=True)
        ),
        "live": live,
        "has_own": live is not None and live.scope == scope and scope != GLOBAL_SCOPE,
        "shares": shares,
        "chosen": chosen,
        "may_change": may_change(request),
        "rollout": under_way,
        "rollout_address": _address_of(under_way) if under_way else "",
        "percent": f"{rollouts.DEFAULT_STEPS[0]:g}",
        "changes": changes,
        "previous": changes[0].before if changes and changes[0].deployment.ended_at is None else None,
        "all_changes": f"{reverse('admin:models_registry_deployment_changelist')}?slot__exact=weights",
        "asked": scope if scope != GLOBAL_SCOPE else (collections[0] if collections else ""),
        "has_preview": look is not None,
        "judged": evaluator.judged_collections(principal) if evaluator is not None else [],
        "has_evaluator": evaluator is not None,
    }


def _changes(scope: str) -> list[Change]:
    rows = list(deployments.history(Slot.WEIGHTS, scope).filter(role=Role.STABLE)[: HISTORY_ROWS + 1])
    shares = [Shares(*row.weights.normalized) if row.weights else Shares(0, 1) for row in rows]
    follows = [*shares[1:], None][: len(rows)]
    changes = [Change(row, own, before) for row, own, before in zip(rows, shares, follows, strict=True)]
    return changes[:HISTORY_ROWS]


def _live_shares(scope: str) -> Shares:
    row = deployments.effective(Slot.WEIGHTS, scope)
    found: FusionWeights | None = None if row is None else row.weights
    return Shares(0.5, 0.5) if found is None else Shares(*found.normalized)


def _shares_of(ltr: float, conceptual: float) -> Shares | None:
    try:
        proposed = weights.propose(ltr, conceptual)
    except Problem:
        return None
    total = proposed.ltr + proposed.conceptual
    return Shares(proposed.ltr / total, proposed.conceptual / total)


def _proposed(fields: Any) -> Shares:
    """Raises `InvalidRequest`."""
    try:
        ltr, conceptual = float(fields.get("ltr", "")), float(fields.get("conceptual", ""))
    except ValueError:
        ltr = conceptual = -1.0
    proposed = weights.propose(ltr, conceptual)
    total = proposed.ltr + proposed.conceptual
    return Shares(proposed.ltr / total, proposed.conceptual / total)


def _curve(measured: Measurement) -> dict[str, Any]:
    """The plot: x is the LTR weight in hundredths, y falls from the best value at 5 to the worst at 95."""
    low, high = min(measured.curve), max(measured.curve)
    spread = (high - low) or 1.0

    def y(value: float) -> str:
        return number(95 - 90 * (value - low) / spread)

    best = max(range(STEPS + 1), key=lambda step: measured.curve[step])
    current, proposed = measured.shares
    return {
        "points": " ".join(f"{step},{y(value)}" for step, value in enumerate(measured.curve)),
        "current_x": number(100 * current.ltr),
        "proposed_x": number(100 * proposed.ltr),
        "low": low,
        "high": high,
        "best": best / STEPS,
        "best_value": measured.curve[best],
        "difference": measured.proposed - measured.current,
        "values": " ".join(f"{value:.4f}" for value in measured.curve),
    }


def urls(view: Any) -> Sequence[Any]:
    """The routes of the page's parts; ``view`` wraps one as the admin's views are."""
    from django.urls import path

    return [
        path("preview/", view(preview), name="models_registry_fusionweights_preview"),
        path("measure/", view(measure), name="models_registry_fusionweights_measure"),
        path("measure/<str:measurement_id>/", view(measurement), name="models_registry_fusionweights_measurement"),
    ]
