"""What can be deployed, and what is deployed. Rows are append-only versions; `Deployment` says which one is live."""

from __future__ import annotations

from typing import Any

from django.core.validators import MinValueValidator
from django.db import models
from django.db.models import Q


class ModelKind(models.TextChoices):
    EMBEDDER = "embedder", "embedder"
    LTR = "ltr", "learning to rank"


class Model(models.Model):
    """A family of versions of one thing."""

    name = models.CharField(max_length=128, unique=True)
    kind = models.CharField(max_length=16, choices=ModelKind.choices)
    provider = models.CharField(max_length=64, help_text="What runs it: onnxruntime, lightgbm, linear, simple.")
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    # Only on rows that `models_registry.versions.overview` read.
    newest_number: int | None
    live: list[dict[str, Any]]

    class Meta:
        ordering = ("kind", "name")

    def __str__(self) -> str:
        return self.name


class Artifact(models.Model):
    """A file addressed by the sha256 of its content: the same content is the same artifact."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    filename = models.CharField(max_length=200, help_text="What the file was called; only for people.")
    stored_at = models.DateTimeField(help_text="When it was last offered for storing.")

    def __str__(self) -> str:
        return f"{self.filename} ({self.sha256[:12]})"


class ModelVersion(models.Model):
    """One version of a model: its files by role, its parameters, its measured quality and where it came from."""

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    artifacts = models.JSONField(default=dict, help_text="{role: sha256}, such as model, tokenizer, config.")
    parameters = models.JSONField(default=dict)
    metrics = models.JSONField(default=dict)
    provenance = models.JSONField(default=dict, help_text="How it was made: command, data, code revision.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("model", "-number")
        constraints = (models.UniqueConstraint(fields=("model", "number"), name="registry_version_number_of_model"),)

    def __str__(self) -> str:
        return f"{self.model.name}@{self.number}"


class FusionWeights(models.Model):
    """One version of the two fusion weights, as entered; the primary key is the version number."""

    version = models.AutoField(primary_key=True)
    ltr = models.FloatField()
    conceptual = models.FloatField()
    author = models.CharField(max_length=200)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-version",)
        verbose_name = verbose_name_plural = "fusion weights"
        constraints = (
            models.CheckConstraint(
                name="registry_weights_are_usable",
                condition=Q(ltr__gte=0)
                & Q(conceptual__gte=0)
                & Q(ltr__lt=float("inf"))
                & Q(conceptual__lt=float("inf"))
                & (Q(ltr__gt=0) | Q(conceptual__gt=0)),
            ),
        )

    def __str__(self) -> str:
        return f"v{self.version}: ltr {self.ltr:g}, conceptual {self.conceptual:g}"

    @property
    def normalized(self) -> tuple[float, float]:
        """``(ltr, conceptual)``, scaled to sum to 1."""
        total = self.ltr + self.conceptual
        return self.ltr / total, self.conceptual / total


class Slot(models.TextChoices):
    """What can be live."""

    WEIGHTS = "weights", "fusion weights"
    LTR = "ltr", "ranker"
    EMBEDDER = "embedder", "embedder"


class Role(models.TextChoices):
    STABLE = "stable", "stable"
    CANARY = "canary", "canary"
    SHADOW = "shadow", "shadow"


GLOBAL_SCOPE = "global"


class Deployment(models.Model):
    """Something that is, or was, live. The only way to become live is a row here; history is its ended rows.

    ``scope`` is ``global`` or a collection's slug. At most one row per (scope, slot, role) has no ``ended_at``.
    """

    scope = models.CharField(max_length=64, default=GLOBAL_SCOPE)
    slot = models.CharField(max_length=16, choices=Slot.choices)
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.STABLE)
    model_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments"
    )
    weights = models.ForeignKey(
        FusionWeights, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments"
    )
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    by = models.CharField(max_length=200)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-started_at", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=("scope", "slot", "role"),
                condition=Q(ended_at__isnull=True),
                name="registry_one_live_deployment",
            ),
            models.CheckConstraint(
                name="registry_deployment_names_one_thing",
                condition=(Q(slot=Slot.WEIGHTS) & Q(weights__isnull=False) & Q(model_version__isnull=True))
                | (~Q(slot=Slot.WEIGHTS) & Q(weights__isnull=True) & Q(model_version__isnull=False)),
            ),
            models.CheckConstraint(
                name="registry_deployment_ends_after_it_starts",
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=models.F("started_at")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.scope}/{self.slot}/{self.role}: {self.model_version or self.weights}"
