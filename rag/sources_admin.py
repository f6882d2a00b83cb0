"""Sources in the admin: made and changed through the services, looked at on request, with how they stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.timesince import timesince, timeuntil

from ops.admin import principal_of
from ops.contracts.problems import Problem
from rag.models import Source, SourceKind, SourceOutcome
from rag.sources import service
from rag.sources.connectors import CONNECTORS

FAULTS_SHOWN = 50
IDENTITY = ("name", "collection", "kind")


class IsPaused(admin.SimpleListFilter):
    title = "schedule"
    parameter_name = "paused"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("no", "Looked at"), ("yes", "Paused")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Source]) -> QuerySet[Source]:
        return queryset if self.value() is None else queryset.filter(is_paused=self.value() == "yes")


class SourceForm(forms.ModelForm[Source]):
    """The settings of a source, checked as the services check them."""

    class Meta:
        model = Source
        fields = (*IDENTITY, *service.SETTINGS)
        labels = {"interval_minutes": "Minutes between looks", "is_paused": "Paused"}
        widgets = {
            "location": forms.TextInput(attrs={"class": "vLargeTextField"}),
            "options": forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3}),
            "metadata": forms.Textarea(attrs={"class": "vLargeTextField", "rows": 3}),
        }

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if "options" in self.fields:
            kinds = [self.instance.kind] if self.instance.pk else list(CONNECTORS)
            self.fields["options"].help_text = format_html_join("", "{}", ((_options_of(kind),) for kind in kinds))

    def clean_options(self) -> Any:
        return self.cleaned_data["options"] or {}

    def clean_metadata(self) -> Any:
        return self.cleaned_data["metadata"] or {}

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        try:
            service.check(self.instance)
        except Problem as problem:
            for name, fault in problem.errors.items():
                field = name.partition(".")[0]
                self.add_error(field if field in self.fields else None, f"{name}: {fault}")


@admin.register(Source)
class SourceAdmin(admin.ModelAdmin[Source]):
    form = SourceForm
    change_form_template = "admin/rag/source/change_form.html"
    list_display = ("name", "kind", "collection", "standing", "last_look", "next_look")
    list_filter = ("kind", "outcome", IsPaused, "collection")
    search_fields = ("name", "location")
    list_select_related = ("collection",)
    actions = ("sync_now", "dry_run", "pause", "resume")
    status_fields = (
        *("standing", "last_look", "next_look", "failures_in_a_row"),
        *("tally_shown", "last_run_link", "faults_shown", "preview_shown", "created_by", "created_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Source]:
        return super().get_queryset(request).annotate(fault_count=Count("items", filter=~Q(items__fault="")))

    def get_readonly_fields(self, request: HttpRequest, obj: Source | None = None) -> Any:
        return (*IDENTITY, *self.status_fields) if obj else ()

    def get_fieldsets(self, request: HttpRequest, obj: Source | None = None) -> Any:
        settings = (
            (None, {"fields": (*IDENTITY, "location", "interval_minutes", "is_paused")}),
            ("What is taken of it, and what is added", {"fields": ("options", "secret", "access_groups", "metadata")}),
        )
        return (("How it stands", {"fields": self.status_fields}), *settings) if obj else settings

    @admin.display(description="state", ordering="outcome")
    def standing(self, source: Any) -> SafeString:
        """In words and in a mark that can be told apart without its colour, with the reason where there is one."""
        if source.is_running:
            return format_html("<strong>{}</strong>", "… is being looked at")
        outcome = SourceOutcome(source.outcome)
        mark = {SourceOutcome.OK: "✓", SourceOutcome.PARTIAL: "◐", SourceOutcome.FAILED: "✗"}
        said = [source.in_words()]
        if source.fault_count:
            said.append(f"{source.fault_count} could not be read")
        if source.is_paused:
            said.append("paused")
        is_whole = outcome is not SourceOutcome.OK or said[0] == outcome.label
        line = f"{mark.get(outcome, '·') if is_whole else '◐'} {', '.join(said)}"
        return format_html("{}<br><small>{}</small>", line, source.error) if source.error else format_html("{}", line)

    @admin.display(description="last look", ordering="finished_at")
    def last_look(self, source: Source) -> str:
        return f"{timesince(source.finished_at, depth=1)} ago" if source.finished_at else "never"

    @admin.display(description="next look", ordering="next_run_at")
    def next_look(self, source: Source) -> str:
        if source.is_paused or source.next_run_at is None:
            return "when asked"
        return (
            "as soon as a worker is free"
            if source.next_run_at <= timezone.now()
            else f"in {timeuntil(source.next_run_at, depth=1)}"
        )

    @admin.display(description="What the last look came to")
    def tally_shown(self, source: Source) -> str:
        return _in_words(source.tally) if source.tally else "-"

    @admin.display(description="Last run that changed something")
    def last_run_link(self, source: Source) -> SafeString | str:
        if source.last_run_id is None:
            return "-"
        address = reverse("admin:rag_indexrun_change", args=[source.last_run_id])
        return format_html('<a href="{}">{}</a>', address, source.last_run_id)

    @admin.display(description="Could not be read")
    def faults_shown(self, source: Source) -> SafeString | str:
        rows = source.items.exclude(fault="").order_by("path").values_list("path", "fault")[:FAULTS_SHOWN]
        return format_html_join("", "<div><code>{}</code> {}</div>", rows) or "-"

    @admin.display(description="Last dry run")
    def preview_shown(self, source: Source) -> SafeString | str:
        kept = source.preview
        if kept is None:
            return "-"
        head = f"{kept['at']}: {kept['error'] or _in_words(kept)}"
        changes = format_html_join("", "<div>{} <code>{}</code> {}</div>", kept.get("changes", ()))
        return format_html("{}{}", head, changes)

    def save_model(self, request: HttpRequest, obj: Source, form: Any, change: bool) -> None:
        """Through the services; the row that the form filled is never saved itself."""
        given = {name: getattr(obj, name) for name in service.SETTINGS}
        principal = principal_of(request)
        if change:
            service.update(Source.objects.get(pk=obj.pk), principal, **given)
        else:
            obj.pk = service.create(obj.name, obj.collection, obj.kind, principal, **given).pk

    def response_change(self, request: HttpRequest, obj: Source) -> HttpResponse:
        if not {"_sync", "_dry_run"} & request.POST.keys():
            return super().response_change(request, obj)
        self._ask(request, [Source.objects.get(pk=obj.pk)], dry_run="_dry_run" in request.POST)
        return HttpResponseRedirect(request.path)

    def delete_model(self, request: HttpRequest, obj: Source) -> None:
        run = service.delete(Source.objects.get(pk=obj.pk), principal_of(request))
        self.message_user(request, f"Run {run.id if run else ''} removes its documents.")

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        for source in queryset:
            self.delete_model(request, source)

    def get_deleted_objects(
        self, objs: Any, request: HttpRequest
    ) -> tuple[list[Any], dict[str, int], set[str], list[Any]]:
        """What the confirmation page shows, counted instead of loaded."""
        listed = [
            f"{source} with {source.collection.documents.filter(source_root=source.root).count()} documents"
            for source in objs
        ]
        return listed, {"sources": len(listed)}, set(), []

    @admin.action(description="Sync now", permissions=["change"])
    def sync_now(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        self._ask(request, queryset, dry_run=False)

    @admin.action(description="Dry run: show what a sync would change", permissions=["change"])
    def dry_run(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        self._ask(request, queryset, dry_run=True)

    @admin.action(description="Pause", permissions=["change"])
    def pause(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        self._set_paused(request, queryset, True)

    @admin.action(description="Resume", permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Source]) -> None:
        self._set_paused(request, queryset, False)

    def _ask(self, request: HttpRequest, sources: Iterable[Source], *, dry_run: bool) -> None:
        for source in sources:
            try:
                service.ask_for_sync(source, principal_of(request), dry_run=dry_run)
            except Problem as problem:
                self.message_user(request, f"{source}: {problem}", messages.ERROR)
            else:
                what = "A dry run of" if dry_run else "A look at"
                self.message_user(request, f"{what} '{source}' begins; its page shows what comes of it.")

    def _set_paused(self, request: HttpRequest, queryset: QuerySet[Source], is_paused: bool) -> None:
        for source in queryset:
            try:
                service.update(source, principal_of(request), is_paused=is_paused)
            except Problem as problem:
                self.message_user(request, f"{source}: {problem}", messages.ERROR)


def _options_of(kind: str) -> SafeString:
    """What a kind of place takes, one option a line."""
    lines = format_html_join("", "<br><code>{}</code> {}", CONNECTORS[kind].option_help.items())
    return format_html("<div>For {}, as JSON:{}</div>", SourceKind(kind).label, lines)


def _in_words(tally: dict[str, Any]) -> str:
    counts = " · ".join(f"{tally[name]} {name}" for name in ("found", "same", "gone", "unreadable"))
    left_out = "; ".join(f"{count} × {reason}" for reason, count in tally["left_out"].items())
    return " · ".join(part for part in (counts, left_out and f"left out: {left_out}", tally["incomplete"]) if part)
