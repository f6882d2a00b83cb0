"""The shapes of the registry's HTTP surface."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_registry.loading import LoadState
from models_registry.models import Deployment, Model, ModelKind, Role, Slot
from ops.api.fields import StrictCharField, StrictFloatField, StrictIntegerField, StrictSerializer

REASON_CHARACTERS = 2000


class ReasonField(StrictCharField):
    """Why a change is made."""

    def __init__(self) -> None:
        super().__init__(
            required=False,
            default="",
            allow_blank=True,
            max_length=REASON_CHARACTERS,
            help_text="Why; kept in the history.",
        )


class CollectionQuerySerializer(StrictSerializer):
    collection = serializers.CharField(required=False, max_length=64, help_text="Slug; without it the global choice.")


class WeightsHistoryQuerySerializer(CollectionQuerySerializer):
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class ModelsQuerySerializer(StrictSerializer):
    kind = serializers.ChoiceField(choices=ModelKind.choices, required=False)
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class VersionsQuerySerializer(StrictSerializer):
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class DeploymentsQuerySerializer(StrictSerializer):
    at = serializers.DateTimeField(required=False, help_text="Only what was live at this time (ISO 8601; UTC).")
    slot = serializers.ChoiceField(choices=Slot.choices, required=False)
    scope = serializers.CharField(required=False, max_length=64, help_text="`global`, or a collection's slug.")
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class NewWeightsSerializer(StrictSerializer):
    """Bounds are checked by `models_registry.weights.propose`, for every way in alike."""

    ltr = StrictFloatField(help_text="Weight of the learned score; only the ratio of the two matters.")
    conceptual = StrictFloatField(help_text="Weight of the conceptual score.")
    reason = StrictCharField(
        required=False,
        default="",
        allow_blank=True,
        max_length=REASON_CHARACTERS,
        help_text="Why; kept in the history.",
    )


class RollbackSerializer(StrictSerializer):
    version = StrictIntegerField(
        required=False, help_text="Version to put back; without it, what was live before the last change."
    )
    reason = ReasonField()


class RemovalSerializer(StrictSerializer):
    reason = ReasonField()


class SharesSerializer(serializers.Serializer[Any]):
    ltr = serializers.FloatField()
    conceptual = serializers.FloatField()


class DeployedWeightsSerializer(serializers.Serializer[Deployment]):
    """Fusion weights that are or were live in a scope."""

    version = serializers.IntegerField(source="weights.version")
    ltr = serializers.FloatField(source="weights.ltr")
    conceptual = serializers.FloatField(source="weights.conceptual")
    normalized = serializers.SerializerMethodField()
    author = serializers.CharField(source="weights.author", help_text="Who made this version.")
    created_at = serializers.DateTimeField(source="weights.created_at")
    scope = serializers.CharField(help_text="`global`, or the collection that has weights of its own.")
    by = serializers.CharField(help_text="Who put it live.")
    reason = serializers.CharField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)

    @extend_schema_field(SharesSerializer)
    def get_normalized(self, deployment: Deployment) -> dict[str, float]:
        """The same, scaled to sum to 1."""
        if deployment.weights is None:
            raise AssertionError("only deployments of weights are shown here")
        ltr, conceptual = deployment.weights.normalized
        return {"ltr": ltr, "conceptual": conceptual}


class DeploymentSerializer(serializers.Serializer[Deployment]):
    """Something that is or was live."""

    id = serializers.IntegerField()
    scope = serializers.CharField(help_text="`global`, or a collection's slug.")
    slot = serializers.ChoiceField(choices=Slot.choices)
    role = serializers.ChoiceField(choices=Role.choices)
    model_version = serializers.SerializerMethodField(help_text="`name@number`; null for weights.")
    weights_version = serializers.IntegerField(source="weights_id", allow_null=True)
    by = serializers.CharField()
    reason = serializers.CharField()
    started_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)

    def get_model_version(self, deployment: Deployment) -> str | None:
        return None if deployment.model_version is None else str(deployment.model_version)


class PlaceSerializer(serializers.Serializer[Any]):
    """Where a version is live."""

    number = serializers.IntegerField()
    scope = serializers.CharField()
    slot = serializers.ChoiceField(choices=Slot.choices)
    role = serializers.ChoiceField(choices=Role.choices)


class ModelSerializer(serializers.Serializer[Model]):
    """A model as `models_registry.versions.overview` reads it."""

    name = serializers.CharField()
    kind = serializers.ChoiceField(choices=ModelKind.choices)
    provider = serializers.CharField()
    description = serializers.CharField()
    created_at = serializers.DateTimeField()
    newest_number = serializers.IntegerField(allow_null=True, help_text="Null while there is no version.")
    live = PlaceSerializer(many=True)


class VersionSerializer(serializers.Serializer[Any]):
    number = serializers.IntegerField()
    artifacts = serializers.DictField(child=serializers.CharField(), help_text="Role to sha256.")
    parameters = serializers.DictField()
    metrics = serializers.DictField()
    provenance = serializers.DictField()
    created_at = serializers.DateTimeField()


class VersionPageSerializer(serializers.Serializer[Any]):
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = VersionSerializer(many=True)


class ModelDetailSerializer(ModelSerializer):
    versions = VersionPageSerializer(help_text="Newest first.")


class FiguresSerializer(serializers.Serializer[Any]):
    """What a version did in a window, over all processes and hosts. Durations are those of calls that went well."""

    window_s = serializers.FloatField(help_text="What the window covers: it begins with a slot of time.")
    calls = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]  # a field, not the form's faults
    calls_per_s = serializers.FloatField()
    items_per_s = serializers.FloatField()
    tokens_per_s = serializers.FloatField()
    batch_size = serializers.FloatField(allow_null=True, help_text="Mean; null where nobody told it.")
    p50_ms = serializers.FloatField(allow_null=True)
    p95_ms = serializers.FloatField(allow_null=True)
    p99_ms = serializers.FloatField(allow_null=True)


class LoadReportSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(help_text="`name@number`.")
    slots = serializers.ListField(child=serializers.CharField(), help_text="Slots it is live in; empty when it is not.")
    scopes = serializers.ListField(child=serializers.CharField())
    state = serializers.ChoiceField(choices=[state.value for state in LoadState])
    since = serializers.DateTimeField(allow_null=True)
    load_time_ms = serializers.FloatField(allow_null=True)
    error = serializers.CharField(allow_null=True)
    statistics = serializers.DictField(
        child=FiguresSerializer(),
        allow_null=True,
        help_text="By window: `1m`, `5m`, `1h`, `24h`; null while Redis is away, and for what is not live.",
    )


class ModelsHealthSerializer(serializers.Serializer[Any]):
    process_id = serializers.IntegerField(help_text="Loading is a matter of each process: this one answered.")
    models = LoadReportSerializer(many=True)
