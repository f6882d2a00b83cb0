"""Sources in the admin: made and changed through the services, looked at on request, with how they stand."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from ops.admin import principal_of
from ops.contracts.problems import Problem
from rag.models import Source, SourceOutcome
from rag.sources import service
from rag.sources.connectors import CONNECTORS

FAULTS_SHOWN = 50
IDENTITY = ("name", "collection", "kind")


class SourceForm(forms.ModelForm[Source]):
    """The settings of a source, checked as the services check them."""

    class Meta:
        model = Source
        fields = (*IDENTITY, *service.SETTINGS)
        widgets = {"location": forms.TextInput(attrs={"class": "vLargeTextField"})}

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        if "options" in self.fields:
            known = [
                f"{kind}: " + "; ".join(f'"{name}": {text}' for name, text in connector.option_help.items())
                for kind, connector in CONNECTORS.items()
            ]
            self.fields["options"].help_text = format_html_join("", "{}<br>", ((line,) for line in known))

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
    list_display = ("name", "collection", "kind", "standing", "last_look", "faults", "next_run_at", "is_paused")
    list_filter = ("kind", "outcome", "is_paused", "collection")
    search_fields = ("name", "location")
    list_select_related = ("collection",)
    actions = ("sync_now", "dry_run", "pause", "resume")
    status_fields = (
        *("standing", "error", "last_look", "next_run_at", "failures_in_a_row"),
        *("tally_shown", "last_run_link", "faults_shown", "preview_shown", "created_by", "created_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Source]:
        return super().get_queryset(request).annotate(fault_count=Count("items", filter=~Q(items__fault="")))

    def get_readonly_fields(self, request: HttpRequest, obj: Source | None = None) -> Any:
        return (*IDENTITY, *self.status_fields) if obj else ()

    def get_fields(self, request: HttpRequest, obj: Source | None = None) -> Any:
        settings = (*IDENTITY, *service.SETTINGS)
        return (*settings, *self.status_fields) if obj else settings

    @admin.display(description="state", ordering="outcome")
    def standing(self, source: Source) -> SafeString:
        """In words and in a mark that can be told apart without its colour."""
        if source.is_running:
            return format_html("<strong>{}</strong>", "… is being looked at")
        mark = {SourceOutcome.OK: "✓", SourceOutcome.PARTIAL: "◐", SourceOutcome.FAILED: "✗"}
        label = SourceOutcome(source.outcome).label
        return format_html(
            '<span title="{}">{} {}</span>', source.error, mark.get(SourceOutcome(source.outcome), "·"), label
        )

    @admin.display(description="last look", ordering="finished_at")
    def last_look(self, source: Source) -> Any:
        return source.finished_at

    @admin.display(description="unreadable", ordering="fault_count")
    def faults(self, source: Source) -> int:
        return source.fault_count  # type: ignore[attr-defined,no-any-return]

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

    def _ask(self, request: HttpRequest, queryset: QuerySet[Source], *, dry_run: bool) -> None:
        for source in queryset:
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


def _in_words(tally: dict[str, Any]) -> str:
    counts = " · ".join(f"{tally[name]} {name}" for name in ("found", "same", "gone", "unreadable"))
    left_out = "; ".join(f"{count} × {reason}" for reason, count in tally["left_out"].items())
    return " · ".join(part for part in (counts, left_out and f"left out: {left_out}", tally["incomplete"]) if part)
