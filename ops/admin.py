"""The admin of operations: keys, and the records that nobody edits."""

from __future__ import annotations

import uuid
from copy import copy
from datetime import datetime, timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.widgets import AdminSplitDateTime
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.views.decorators.http import require_POST

from ops import alerts, keys
from ops.alerting import delivery, rules
from ops.alerting.figures import replay_figures
from ops.authentication import user_principal
from ops.contracts.measures import measures
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Conflict, InvalidRequest, Problem
from ops.instrumentation.histogram import RELATIVE_ERROR
from ops.instrumentation.performance import TIMED_STAGES
from ops.models import (
    AlertChannel,
    AlertDelivery,
    AlertEvent,
    AlertRule,
    ApiKey,
    AuditEvent,
    ChannelKind,
    QueryPerformance,
)
from ops.performance.figures import STAGES_DRAWN, report_figures, slow_figures
from ops.performance.report import FROM_ROWS, ROLLED_UP, TOTAL_STAGE, parse_by, parse_period, report, slow


def principal_of(request: HttpRequest) -> Principal:
    """Who uses the admin, as the middleware resolved it."""
    principal: Principal = request.principal  # type: ignore[attr-defined]
    return principal


class ReadOnlyAdmin(admin.ModelAdmin[Any]):
    """Shows rows that the product writes and nobody edits."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


class NewKeyForm(forms.ModelForm[ApiKey]):
    """What is asked for when a key is made."""

    scopes = forms.MultipleChoiceField(
        choices=[(scope.value, scope.value) for scope in Scope], widget=forms.CheckboxSelectMultiple
    )
    expires_at = forms.SplitDateTimeField(required=False, widget=AdminSplitDateTime, help_text="Empty: never.")

    class Meta:
        model = ApiKey
        fields = ("name", "scopes", "groups", "collections", "expires_at")

    def clean_expires_at(self) -> datetime | None:
        expires_at: datetime | None = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("Choose a later time.")
        return expires_at


class LatestRows(Paginator[Any]):
    """Pages over the first 10,000 rows only: counting millions for a page number would take seconds."""

    @cached_property
    def count(self) -> int:
        rows = cast(QuerySet[Any], self.object_list)
        return rows[:10_000].count()


@admin.register(ApiKey)
class ApiKeyAdmin(admin.ModelAdmin[ApiKey]):
    """Keys are made and revoked, never changed. The key is shown once, after it was made; its hash never."""

    form = NewKeyForm
    list_display = ("prefix", "name", "scopes", "state", "created_by", "created_at", "expires_at", "last_used_at")
    search_fields = ("prefix", "name")
    actions = ("rotate", "revoke")
    fields = ("name", "scopes", "groups", "collections", "expires_at")

    @admin.display(description="state")
    def state(self, record: ApiKey) -> str:
        return keys.state_of(record)

    @admin.action(description="Revoke the selected keys", permissions=["delete"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for record in queryset:
            keys.revoke_key(record.prefix, actor=user_principal(request.user))  # type: ignore[arg-type]
        self.message_user(request, "Revoked. Within a second they open nothing any more.")

    @admin.action(description="Rotate the selected keys: the old ones work for another 24 hours", permissions=["add"])
    def rotate(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        for record in queryset:
            try:
                made = keys.rotate_key(record.prefix, actor=user_principal(request.user))  # type: ignore[arg-type]
            except Conflict as problem:
                self.message_user(request, problem.detail, messages.ERROR)
            else:
                text = format_html("In place of {}, shown this once: <code>{}</code>", record, made.text)
                self.message_user(request, text, messages.WARNING)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: forms.ModelForm[ApiKey], change: bool) -> None:
        """Make the key by the service. ``obj`` takes over its row, so that the admin's log names it."""
        made = keys.create_key(
            obj.name,
            form.cleaned_data["scopes"],
            actor=user_principal(request.user),  # type: ignore[arg-type]
            groups=obj.groups,
            collections=obj.collections or None,
            expires_at=obj.expires_at,
        )
        obj.pk = made.record.pk
        obj.refresh_from_db()
        text = format_html("The key, shown this once: <code>{}</code>", made.text)
        self.message_user(request, text, messages.WARNING)

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> Any:
        more = ("prefix", "state", "created_by", "created_at", "revoked_at", "last_used_at")
        return self.fields if obj is None else (*self.fields, *more)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return False

    def get_actions(self, request: HttpRequest) -> Any:
        """A key is revoked, not deleted: the audit trail goes on naming it."""
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        return obj is None and super().has_delete_permission(request)


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    list_display = ("occurred_at", "actor", "action", "target")
    list_filter = ("action",)
    search_fields = ("actor", "target")
    date_hierarchy = "occurred_at"


class StillOpen(admin.SimpleListFilter):
    """Open alerts, or those that are over."""

    title = "state"
    parameter_name = "state"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("open", "Open"), ("over", "Over")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AlertEvent]) -> QuerySet[AlertEvent]:
        return queryset if self.value() is None else queryset.filter(resolved_at__isnull=self.value() == "open")


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    list_display = ("message", "severity", "situation", "last_raised_at", "count", "name")
    list_filter = ("severity", StillOpen)
    search_fields = ("name", "message")
    actions = ("acknowledge", "close")

    @admin.display(description="state", ordering="resolved_at")
    def situation(self, event: AlertEvent) -> str:
        if event.resolved_at:
            return f"over since {timezone.localtime(event.resolved_at):%d %b %H:%M}"
        return f"acknowledged by {event.acknowledged_by}" if event.acknowledged_at else "open"

    def has_work_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("ops.change_alertevent")

    @admin.action(description="Acknowledge", permissions=["work"])
    def acknowledge(self, request: HttpRequest, queryset: QuerySet[AlertEvent]) -> None:
        self._each(request, queryset, alerts.acknowledge)

    @admin.action(description="Close", permissions=["work"])
    def close(self, request: HttpRequest, queryset: QuerySet[AlertEvent]) -> None:
        self._each(request, queryset, alerts.close)

    def _each(self, request: HttpRequest, queryset: QuerySet[AlertEvent], act: Any) -> None:
        for event in queryset:
            try:
                act(event, by=user_principal(request.user))  # type: ignore[arg-type]
            except Problem as problem:
                self.message_user(request, str(problem), messages.ERROR)


class RuleForm(forms.ModelForm[AlertRule]):
    measure = forms.ChoiceField(choices=lambda: [(one.name, f"{one.name}: {one.help}") for one in measures().values()])

    class Meta:
        model = AlertRule
        fields = (
            *("name", "enabled", "measure", "labels", "comparison", "threshold", "clear_threshold"),
            *("window_s", "for_s", "severity", "description", "silenced_until"),
        )
        labels = {"window_s": "Window, in seconds", "for_s": "For, in seconds"}
        widgets = {"labels": forms.Textarea(attrs={"rows": 2, "cols": 60})}


@admin.register(AlertRule)
class AlertRuleAdmin(admin.ModelAdmin[AlertRule]):
    """Rules are data: what they watch is what apps have registered."""

    form = RuleForm
    change_form_template = "admin/ops/alertrule/change_form.html"
    list_display = ("name", "watches", "phase", "value", "severity", "enabled", "silenced_until")
    list_filter = ("enabled", "severity")
    list_select_related = ("state",)
    search_fields = ("name",)
    actions = ("silence_hour", "silence_day", "end_silence")

    @admin.display(description="fires when")
    def watches(self, rule: AlertRule) -> str:
        unit = measures()[rule.measure].unit if rule.measure in measures() else ""
        labels = " ".join(rule.labels.values())
        threshold = rules.readable(rule.threshold, unit)
        return f"{rule.measure} {labels} {rule.comparison} {threshold} for {rule.for_s} s".replace("  ", " ")

    @admin.display(description="phase")
    def phase(self, rule: AlertRule) -> str:
        if not rule.enabled:
            return "off"
        if not hasattr(rule, "state"):
            return "not read yet"
        return f"can't be read: {rule.state.fault}" if rule.state.fault else rule.state.phase

    @admin.display(description="now")
    def value(self, rule: AlertRule) -> str:
        unit = measures()[rule.measure].unit if rule.measure in measures() else ""
        return rules.readable(rule.state.value, unit) if hasattr(rule, "state") else ""

    @admin.action(description="Silence for an hour", permissions=["change"])
    def silence_hour(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        self._silence(request, queryset, timezone.now() + timedelta(hours=1))

    @admin.action(description="Silence for a day", permissions=["change"])
    def silence_day(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        self._silence(request, queryset, timezone.now() + timedelta(days=1))

    @admin.action(description="End the silence", permissions=["change"])
    def end_silence(self, request: HttpRequest, queryset: QuerySet[AlertRule]) -> None:
        self._silence(request, queryset, None)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> AlertRule | None:
        rule = super().get_object(request, object_id, from_field)
        request.replayed_rule = copy(rule)  # type: ignore[attr-defined]  # the form writes what was entered into the other
        return rule

    def render_change_form(self, request: HttpRequest, context: Any, *args: Any, **kwargs: Any) -> Any:
        if (rule := getattr(request, "replayed_rule", None)) is not None:
            asked = request.GET.get("since", "")
            period = asked if asked in REPLAY_PERIODS else REPLAY_PERIODS[0]
            context |= {"replay_periods": REPLAY_PERIODS, "replay_period": period, **_replayed(rule, period)}
        return super().render_change_form(request, context, *args, **kwargs)

    def _silence(self, request: HttpRequest, queryset: QuerySet[AlertRule], until: datetime | None) -> None:
        for rule in queryset:
            rules.silence(rule, until, by=user_principal(request.user))  # type: ignore[arg-type]


REPLAY_PERIODS = ("24h", "1h", "7d")


def _replayed(rule: AlertRule, period: str) -> dict[str, Any]:
    """The plot of a rule over a period, or why there is none."""
    try:
        figures = replay_figures(rules.replay(rule, parse_period(period), now=timezone.now()))
    except Problem as problem:
        return {"replay_fault": str(problem)}
    return {"replay": figures, "fired": zip(figures.replay.fired, figures.worst, strict=True) if figures else ()}


@admin.register(AlertChannel)
class AlertChannelAdmin(admin.ModelAdmin[AlertChannel]):
    list_display = ("name", "kind", "target", "lowest_severity", "enabled", "last_told")
    actions = ("send_test", "show_key")
    change_form_template = "admin/ops/alertchannel/change_form.html"

    def get_urls(self) -> list[Any]:
        test = self.admin_site.admin_view(require_POST(self.test_one))
        return [path("<int:pk>/test/", test, name="ops_alertchannel_test"), *super().get_urls()]

    def test_one(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The test button."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        channel = get_object_or_404(AlertChannel, pk=pk)
        self._test(request, channel)
        return redirect("admin:ops_alertchannel_change", pk)

    @admin.action(description="Send a test", permissions=["change"])
    def send_test(self, request: HttpRequest, queryset: QuerySet[AlertChannel]) -> None:
        for channel in queryset:
            self._test(request, channel)

    @admin.action(description="Show the key that receivers verify with", permissions=["change"])
    def show_key(self, request: HttpRequest, queryset: QuerySet[AlertChannel]) -> None:
        for channel in queryset.filter(kind=ChannelKind.WEBHOOK):
            text = format_html("{}: <code>{}</code>", channel.name, delivery.signing_key(channel))
            self.message_user(request, text, messages.WARNING)

    def _test(self, request: HttpRequest, channel: AlertChannel) -> None:
        now = timezone.now()
        try:
            delivery.send(channel, delivery.trial_message(now), f"test-{uuid.uuid4()}", now=now)
        except delivery.DeliveryError as error:
            self.message_user(request, f"{channel.name}: {error}", messages.ERROR)
        else:
            self.message_user(request, f"{channel.name} took the test.")

    @admin.display(description="last told")
    def last_told(self, channel: AlertChannel) -> str:
        last = channel.deliveries.first()
        if last is None:
            return "nothing yet"
        return last.fault or (f"{last.event.name}, {last.sent_at:%d %b %H:%M}" if last.sent_at else "waiting")


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    list_display = ("event", "channel", "ending", "sent_at", "attempts", "next_attempt_at", "fault")
    list_filter = ("channel", ("sent_at", admin.EmptyFieldListFilter))
    list_select_related = ("event", "channel")


@admin.register(QueryPerformance)
class QueryPerformanceAdmin(ReadOnlyAdmin):
    """How single queries went. Counting millions of rows for the page numbers would be slow."""

    list_display = ("occurred_at", "request", "took", "collection", "variant", "cache", "status", "result_count")
    list_filter = ("cache", "status")
    search_fields = ("request_id__exact",)
    paginator = LatestRows
    show_full_result_count = False
    list_per_page = 50

    @admin.display(description="request")
    def request(self, row: QueryPerformance) -> str:
        """Enough of the id to tell it; all of it is on the page of the query."""
        return format_html('<code title="{}">{}</code>', row.request_id, str(row.request_id)[:13])

    @admin.display(description="ms", ordering="pipeline_ms")
    def took(self, row: QueryPerformance) -> str:
        return "–" if row.pipeline_ms is None else f"{row.pipeline_ms:,.1f}"

    def get_urls(self) -> list[Any]:
        report = self.admin_site.admin_view(self.report)
        return [path("report/", report, name="ops_queryperformance_report"), *super().get_urls()]

    def report(self, request: HttpRequest) -> HttpResponse:
        """What ``manage.py perf report`` and ``perf slow`` show, with plots."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        form = ReportForm({**ReportForm.DEFAULTS, **request.GET.dict()})
        context = {
            **self.admin_site.each_context(request),
            "title": "Query performance",
            "opts": self.opts,
            "form": form,
        }
        status = 200
        try:
            context |= performance_page(form)
        except Problem as problem:
            context["fault"], status = str(problem), problem.status
        return TemplateResponse(request, "admin/ops/queryperformance/report.html", context, status=status)


class ReportForm(forms.Form):
    """What the page of the performance report may be asked."""

    DEFAULTS = {"since": "24h", "by": ",".join(ROLLED_UP), "stage": ""}

    since = forms.CharField(label="Period", widget=forms.TextInput(attrs={"size": 8}))
    by = forms.ChoiceField(
        label="By",
        choices=[(by, by.replace(",", " and ")) for by in (DEFAULTS["by"], *ROLLED_UP, *FROM_ROWS)],
    )
    stage = forms.ChoiceField(
        label="Stage", required=False, choices=[("", "all"), *((name, name) for name in TIMED_STAGES)]
    )
    variant = forms.CharField(label="Variant", required=False, widget=forms.TextInput(attrs={"size": 12}))


def performance_page(form: ReportForm) -> dict[str, Any]:
    """What the template shows of a form. Raises `Problem` for what can't be shown."""
    if not form.is_valid():
        raise InvalidRequest(" ".join(str(fault) for faults in form.errors.values() for fault in faults))
    asked = form.cleaned_data
    stage, variant = asked["stage"] or None, asked["variant"] or None
    since, now = parse_period(asked["since"]), timezone.now()
    slowest = slow(since, now=now, stage=stage or TOTAL_STAGE, variant=variant)
    return {
        "figures": report_figures(report(since, parse_by(asked["by"]), now=now, stage=stage, variant=variant)),
        "slow": slow_figures(slowest, stage or TOTAL_STAGE),
        "stage": stage or TOTAL_STAGE,
        "stages": STAGES_DRAWN,
        "error_percent": f"{100 * RELATIVE_ERROR:.1f}",
    }
