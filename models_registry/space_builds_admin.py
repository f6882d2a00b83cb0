"""Builds of embedding spaces in the admin: start one, watch it fill, see its check, switch, go back, drop."""

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

from models_registry import clock, space_builds
from models_registry.models import BuildState, ModelKind, ModelVersion, SpaceBuild
from models_registry.scopes import readable_scope
from ops.admin import ReadOnlyAdmin, principal_of
from ops.contracts.problems import Problem

SHOWN_MEASURES = space_builds.CHECKED


class BuildForm(forms.Form):
    """What `space_builds.start` is given."""

    version = forms.ModelChoiceField(
        ModelVersion.objects.none(), label="Embedder", help_text="`manage.py embedder add` brings another one in."
    )
    collection = forms.CharField(required=False, max_length=64, help_text="A collection's slug; empty: everywhere.")
    chunks_per_minute = forms.IntegerField(required=False, min_value=1, help_text="Empty: as fast as the workers go.")
    switches = forms.BooleanField(
        required=False, label="Switch by itself", help_text="As soon as the check on judged queries has passed."
    )
    keep_hours = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=space_builds.MAX_KEEP_HOURS,
        help_text="How long after the switch the vectors from before are kept for a rollback, then dropped by "
        "themselves. 0: until somebody drops them; empty: as REGISTRY_SPACE_KEEP_HOURS says.",
    )
    reason = forms.CharField(
        max_length=2000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Kept in the history."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        embedders = ModelVersion.objects.filter(model__kind=ModelKind.EMBEDDER).select_related("model")
        self.fields["version"].queryset = embedders  # type: ignore[attr-defined]


Action = Callable[..., Any]
ACTIONS: dict[str, tuple[str, Action]] = {
    "switch": ("Switch to it", space_builds.switch),
    "force": ("Switch although the check speaks against it", space_builds.switch),
    "check": ("Check again", space_builds.check),
    "cancel": ("Cancel", space_builds.cancel),
    "roll_back": ("Roll back", space_builds.roll_back),
    "drop": ("Drop what it left behind", space_builds.drop_soon),
}


def actions_of(build: SpaceBuild) -> list[str]:
    """What can be done with a build in its state, the likeliest first."""
    names = []
    if build.state == BuildState.READY:
        names += ["force" if space_builds.losses(build.check_result) else "switch", "check"]
    if build.state in space_builds.OPEN:
        names.append("cancel")
    if build.state == BuildState.SWITCHED and build.before is not None:
        names.append("roll_back")
    return [*names, "drop"] if build.left_behind is not None else names


@admin.register(SpaceBuild)
class SpaceBuildAdmin(ReadOnlyAdmin):
    list_display = ("__str__", "state", "progress", "checked", "by", "reason", "created_at", "drops_at")
    list_filter = ("state", "scope")
    change_form_template = "admin/models_registry/space_build.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[SpaceBuild]:
        return space_builds.everything()

    @admin.display(description="passages")
    def progress(self, build: SpaceBuild) -> str:
        share = f" ({build.done / build.total:.0%})" if build.total else ""
        return f"{build.done:,} of {build.total:,}{share}"

    @admin.display(description="check")
    def checked(self, build: SpaceBuild) -> str:
        return "; ".join(space_builds.losses(build.check_result)) or ("passed" if build.check_result else "–")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("models_registry.add_deployment")

    def get_urls(self) -> list[URLPattern]:
        wrap = self.admin_site.admin_view
        return [
            path("<int:number>/progress/", wrap(self.progress_view), name="space_build_progress"),
            path("<int:number>/act/<slug:action>/", wrap(require_POST(self.act_view)), name="space_build_act"),
            *super().get_urls(),
        ]

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: Any = None) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        form = BuildForm(request.POST or None)
        if form.is_valid():
            given = dict(form.cleaned_data)
            try:
                scope = readable_scope(given.pop("collection") or None, principal_of(request))
                build = space_builds.start(given.pop("version"), scope, by=principal_of(request), **given)
            except Problem as problem:
                form.add_error(None, str(problem))
            else:
                self.message_user(request, f"{build} is filled by the workers now.", messages.SUCCESS)
                return HttpResponseRedirect(_page_of(build.pk))
        context = {
            **self.admin_site.each_context(request),
            "title": "Build an embedding space",
            "opts": self.opts,
            "form": form,
        }
        return TemplateResponse(request, "admin/models_registry/start_space_build.html", context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        number = int(object_id) if object_id.isdecimal() and len(object_id) < 18 else 0
        context = {**self.admin_site.each_context(request), "opts": self.opts, **self._context(request, number)}
        return TemplateResponse(request, self.change_form_template, context)

    def progress_view(self, request: HttpRequest, number: int) -> HttpResponse:
        """The part of the page that is fetched again while workers are at it."""
        return TemplateResponse(
            request, "admin/models_registry/space_build_progress.html", self._context(request, number)
        )

    def act_view(self, request: HttpRequest, number: int, action: str) -> HttpResponse:
        if not self.has_add_permission(request):
            raise PermissionDenied
        build = get_object_or_404(space_builds.everything(), pk=number)
        if action in actions_of(build):
            options: dict[str, Any] = {"force": True} if action == "force" else {}
            if action in {"switch", "force", "cancel", "roll_back"}:
                options["reason"] = request.POST.get("reason", "")[:2000]
            try:
                ACTIONS[action][1](number, by=principal_of(request), **options)
                build = space_builds.find(number)
                said = "is dropped by the workers" if action == "drop" else f"is {build.get_state_display()}"
                self.message_user(request, f"{build} {said}.", messages.SUCCESS)
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)
        else:
            self.message_user(request, f"{build} is {build.get_state_display()}.", messages.ERROR)
        return HttpResponseRedirect(_page_of(number))

    def _context(self, request: HttpRequest, number: int) -> dict[str, Any]:
        if not self.has_view_permission(request):
            raise PermissionDenied
        build = get_object_or_404(space_builds.everything(), pk=number)
        may_act = self.has_add_permission(request)
        return {
            "title": str(build),
            "build": build,
            "share": 100 * build.done / build.total if build.total else 100.0,
            "is_worked_on": build.state in space_builds.WORKED_ON,
            "is_dropping": build.drops_at is not None and build.drops_at <= clock.now(),
            "losses": space_builds.losses(build.check_result),
            "checks": list(_checks(build)),
            "actions": [(name, ACTIONS[name][0]) for name in actions_of(build)] if may_act else [],
        }


def _checks(build: SpaceBuild) -> Any:
    """Rows of the check's table: collection, measure, the stable embedder's value, the candidate's, the difference."""
    for collection, found in sorted(build.check_result.items()):
        for measure in SHOWN_MEASURES:
            stable, candidate = found["stable"][measure], found["candidate"][measure]
            yield collection, measure, stable, candidate, candidate - stable


def _page_of(number: int) -> str:
    return reverse("admin:models_registry_spacebuild_change", args=[number])
