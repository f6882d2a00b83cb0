"""Keys, what was changed by whom, alerts, and how fast each query was."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from ops.alerting.conditions import Comparison, Condition, Phase
from ops.alerting.validation import check_channel, check_rule, new_salt


class ApiKey(models.Model):
    """A key ``zg_<prefix>_<secret>``, of which only a keyed hash is kept."""

    prefix = models.CharField(max_length=16, unique=True)
    key_hash = models.CharField(max_length=64)
    name = models.CharField(max_length=200)
    scopes = ArrayField(models.CharField(max_length=32))
    groups = ArrayField(models.CharField(max_length=150), default=list, blank=True)
    collections = ArrayField(
        models.CharField(max_length=64), null=True, blank=True, help_text="Slugs; empty: every collection."
    )
    created_at = models.DateTimeField(auto_now_add=True)
    created_by = models.CharField(max_length=200)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"{self.name} (zg_{self.prefix}_…)"


class AuditEvent(models.Model):
    """One change, with who made it."""

    id = models.BigAutoField(primary_key=True)
    occurred_at = models.DateTimeField(auto_now_add=True, db_index=True)
    actor = models.CharField(max_length=200)
    action = models.CharField(max_length=64, help_text="noun.verb, such as document.delete")
    target = models.CharField(max_length=600)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.actor} {self.action} {self.target}"


class AlertSeverity(models.TextChoices):
    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


class AlertRule(models.Model):
    """When an operator wants to hear of a figure. ``labels`` choose which one, such as ``{"stage": "embed"}``."""

    name = models.SlugField(max_length=64, unique=True)
    measure = models.CharField(max_length=64, help_text="What is watched.")
    labels = models.JSONField(default=dict, blank=True, help_text='Which of them, such as {"stage": "embed"}.')
    comparison = models.CharField(max_length=8, choices=[(one.value, one.value) for one in Comparison], default="above")
    threshold = models.FloatField(help_text="Beyond this it is bad.")
    clear_threshold = models.FloatField(
        null=True, blank=True, help_text="A firing alert ends only at this or better. Empty: at the threshold."
    )
    window_s = models.PositiveIntegerField(
        default=300, validators=[MinValueValidator(60), MaxValueValidator(86_400)], help_text="The time looked at."
    )
    for_s = models.PositiveIntegerField(
        default=60, validators=[MaxValueValidator(86_400)], help_text="How long it must be bad without a break."
    )
    severity = models.CharField(max_length=16, choices=AlertSeverity.choices, default=AlertSeverity.WARNING)
    enabled = models.BooleanField(default=True)
    description = models.TextField(blank=True, help_text="What it means and what to do; sent along.")
    silenced_until = models.DateTimeField(null=True, blank=True, help_text="Nobody is told before then.")

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        check_rule(self)

    @property
    def condition(self) -> Condition:
        """The rule as the state machine needs it."""
        clear = self.threshold if self.clear_threshold is None else self.clear_threshold
        return Condition(Comparison(self.comparison), self.threshold, clear, self.for_s)

    @property
    def window(self) -> timedelta:
        return timedelta(seconds=self.window_s)


class AlertState(models.Model):
    """Where a rule stands. Apart from the rule, so that whoever edits one takes nothing back."""

    rule = models.OneToOneField(AlertRule, on_delete=models.CASCADE, primary_key=True, related_name="state")
    phase = models.CharField(max_length=8, choices=[(one.value, one.value) for one in Phase], default="ok")
    since = models.DateTimeField(null=True)
    read_at = models.DateTimeField(null=True)
    value = models.FloatField(null=True)
    fault = models.TextField(blank=True, help_text="Why the figure can't be read.")

    def __str__(self) -> str:
        return f"{self.rule}: {self.phase}"


class AlertReading(models.Model):
    """What a rule read of a figure that has no history of its own."""

    id = models.BigAutoField(primary_key=True)
    rule = models.ForeignKey(AlertRule, on_delete=models.CASCADE, related_name="readings")
    read_at = models.DateTimeField()
    value = models.FloatField(null=True)

    class Meta:
        indexes = (models.Index(fields=("rule", "read_at"), name="ops_reading_of_rule"),)

    def __str__(self) -> str:
        return f"{self.rule} {self.read_at:%H:%M:%S} {self.value}"


class AlertEvent(models.Model):
    """Something an operator should know. An alert that is raised again while open only counts up."""

    name = models.CharField(max_length=128)
    rule = models.ForeignKey(AlertRule, on_delete=models.SET_NULL, null=True, blank=True, related_name="events")
    severity = models.CharField(max_length=16, choices=AlertSeverity.choices)
    message = models.TextField()
    details = models.JSONField(default=dict)
    opened_at = models.DateTimeField(auto_now_add=True)
    last_raised_at = models.DateTimeField()
    count = models.PositiveIntegerField(default=1)
    acknowledged_at = models.DateTimeField(null=True, blank=True)
    acknowledged_by = models.CharField(max_length=200, blank=True)
    resolved_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-last_raised_at",)
        constraints = (
            models.UniqueConstraint(
                fields=("name",), condition=Q(resolved_at__isnull=True), name="ops_one_open_alert_per_name"
            ),
        )

    def __str__(self) -> str:
        return f"{self.severity}: {self.message}"


class ChannelKind(models.TextChoices):
    WEBHOOK = "webhook"
    EMAIL = "email", "e-mail"
    ALERTMANAGER = "alertmanager", "Alertmanager"


class AlertChannel(models.Model):
    """Where alerts are told. ``key_salt`` makes the signing key of a webhook, which itself is kept nowhere."""

    name = models.SlugField(max_length=64, unique=True)
    kind = models.CharField(max_length=16, choices=ChannelKind.choices)
    target = models.CharField(
        max_length=500, help_text="The URL that is called, or mail addresses with commas between them."
    )
    lowest_severity = models.CharField(
        max_length=16, choices=AlertSeverity.choices, default=AlertSeverity.INFO, help_text="Less is not told here."
    )
    enabled = models.BooleanField(default=True)
    repeat_s = models.PositiveIntegerField(
        default=0,
        help_text="Tell again after so many seconds while it is open and not acknowledged; 0: once. An Alertmanager is "
        "told every minute in any case.",
    )
    key_salt = models.CharField(max_length=32, default=new_salt, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        check_channel(self)


class AlertDelivery(models.Model):
    """That an alert opened, or that it ended, told to one channel."""

    id = models.BigAutoField(primary_key=True)
    event = models.ForeignKey(AlertEvent, on_delete=models.CASCADE, related_name="deliveries")
    channel = models.ForeignKey(AlertChannel, on_delete=models.CASCADE, related_name="deliveries")
    ending = models.BooleanField(help_text="Whether it tells that the alert is over.")
    attempts = models.PositiveIntegerField(default=0)
    next_attempt_at = models.DateTimeField(null=True, help_text="Empty: nothing more to do.")
    sent_at = models.DateTimeField(null=True)
    fault = models.TextField(blank=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "alert deliveries"
        constraints = (models.UniqueConstraint(fields=("event", "channel", "ending"), name="ops_one_delivery_of_each"),)
        indexes = (
            models.Index(
                fields=("next_attempt_at",), condition=Q(next_attempt_at__isnull=False), name="ops_delivery_due"
            ),
        )

    def __str__(self) -> str:
        return f"{self.event.name} to {self.channel}"


class QueryPerformance(models.Model):
    """How one query went: a row of the performance store (see `ops.instrumentation.performance`).

    The table is partitioned by day and made by migration 0002, which has the meaning of each column; the key is
    ``(occurred_at, id)``, and ``id`` alone is unique as well.
    """

    id = models.BigIntegerField(primary_key=True)
    occurred_at = models.DateTimeField()
    request_id = models.UUIDField()
    query_hmac = models.TextField()
    collection = models.TextField()
    variant = models.TextField()
    mode = models.TextField()
    cache = models.TextField()
    status = models.SmallIntegerField()
    degraded = ArrayField(models.TextField())
    result_count = models.IntegerField()
    top_score = models.FloatField(null=True)
    embed_ms = models.FloatField(null=True)
    retrieval_ms = models.FloatField(null=True)
    feature_ms = models.FloatField(null=True)
    ltr_ms = models.FloatField(null=True)
    fusion_ms = models.FloatField(null=True)
    pipeline_ms = models.FloatField(null=True)
    generation_ms = models.FloatField(null=True)
    stt_ms = models.FloatField(null=True)
    tts_ms = models.FloatField(null=True)
    weights_version = models.IntegerField(null=True)
    ltr_version = models.TextField(null=True)
    embedder_version = models.TextField(null=True)
    key_prefix = models.TextField(null=True)

    class Meta:
        managed = False
        db_table = "query_performance"
        ordering = ("-occurred_at", "-id")
        verbose_name = "query"
        verbose_name_plural = "query performance"

    def __str__(self) -> str:
        return f"{self.occurred_at:%Y-%m-%d %H:%M:%S} {self.request_id}"
