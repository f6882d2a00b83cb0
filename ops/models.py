"""Keys, what was changed by whom, alerts, and how fast each query was."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q


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


class AlertEvent(models.Model):
    """Something an operator should know. An alert that is raised again while open only counts up."""

    name = models.CharField(max_length=128)
    severity = models.CharField(max_length=16, choices=AlertSeverity.choices)
    message = models.TextField()
    details = models.JSONField(default=dict)
    opened_at = models.DateTimeField(auto_now_add=True)
    last_raised_at = models.DateTimeField()
    count = models.PositiveIntegerField(default=1)
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
