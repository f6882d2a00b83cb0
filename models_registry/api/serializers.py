"""The shapes of the registry's HTTP surface."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from models_registry.loading import LoadState
from models_registry.models import Deployment, Model, ModelKind, Role, Slot, VersionStatus
from ops.api.fields import StrictBooleanField, StrictCharField, StrictFloatField, StrictIntegerField, StrictSerializer

REASON_CHARACTERS = 2000
LOAD_STATES = [state.value for state in LoadState]


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
    provider = serializers.CharField(required=False, max_length=64, help_text="What runs it, such as `onnxruntime`.")
    search = serializers.CharField(required=False, max_length=128, help_text="Part of the name or description.")
    live = serializers.BooleanField(
        required=False, allow_null=True, default=None, help_text="Only what is, or is not, live somewhere."
    )
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class VersionsQuerySerializer(StrictSerializer):
    status = serializers.ChoiceField(choices=VersionStatus.choices, required=False)
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
    training_run = serializers.UUIDField(source="training_run_id", allow_null=True)
    dataset_sha256 = serializers.CharField(help_text="Identifies what it was trained on; empty: not known.")
    code_revision = serializers.CharField()
    status = serializers.ChoiceField(choices=VersionStatus.choices)
    status_detail = serializers.CharField(help_text="Why it is missing or failed.")
    found_at = serializers.CharField(source="source", help_text="Where it was discovered; empty: registered here.")
    seen_at = serializers.DateTimeField(allow_null=True, help_text="When it was last found at its source.")
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
    """A model version in one process, or on one server of models."""

    process = serializers.CharField(help_text="`role host:process id`, or the server that holds it.")
    role = serializers.CharField(help_text="`web`, `worker`, or `server` for one that speaks Ollama's protocol.")
    state = serializers.ChoiceField(choices=LOAD_STATES)
    since = serializers.DateTimeField(allow_null=True)
    load_time_ms = serializers.FloatField(allow_null=True)
    memory_bytes = serializers.IntegerField(
        allow_null=True, help_text="What the process grew by while it loaded: near the truth."
    )
    device = serializers.CharField(allow_null=True)
    error = serializers.CharField(allow_null=True)


class ModelHealthSerializer(serializers.Serializer[Any]):
    model = serializers.CharField(help_text="`name@number`.")
    kind = serializers.CharField(allow_null=True, help_text="Null when the registry could not be read.")
    status = serializers.ChoiceField(choices=VersionStatus.choices, allow_null=True)
    status_detail = serializers.CharField()
    slots = serializers.ListField(child=serializers.CharField(), help_text="Slots it is live in; empty when it is not.")
    scopes = serializers.ListField(child=serializers.CharField())
    state = serializers.ChoiceField(
        choices=LOAD_STATES,
        help_text="The worst of all processes; `unloaded` where none has it.",
    )
    processes = LoadReportSerializer(many=True)
    statistics = serializers.DictField(
        child=FiguresSerializer(),
        allow_null=True,
        help_text="By window: `1m`, `5m`, `1h`, `24h`; null while Redis is away, and for what is not live.",
    )


class ModelsHealthSerializer(serializers.Serializer[Any]):
    process = serializers.CharField(help_text="The process that answered.")
    sees_all_processes = serializers.BooleanField(
        help_text="False while Redis is away: then only the process that answered is listed."
    )
    models = ModelHealthSerializer(many=True)


class LookedSerializer(serializers.Serializer[Any]):
    """What a look at one source found."""

    source = serializers.CharField()  # type: ignore[assignment]  # a field, not where this one reads from
    found = serializers.IntegerField()
    added = serializers.ListField(child=serializers.CharField(), help_text="`name@number`.")
    missing = serializers.ListField(child=serializers.CharField())
    returned = serializers.ListField(child=serializers.CharField(), help_text="Were missing, and are there again.")
    error = serializers.CharField(help_text="Why it could not be looked at, or what in it can't be used.")


class RefreshedSerializer(serializers.Serializer[Any]):
    sources = LookedSerializer(many=True)


class PromotionSerializer(StrictSerializer):
    version = StrictCharField(max_length=150, help_text="`name@number`, or a name for its newest version.")
    reason = ReasonField()
    force = StrictBooleanField(
        required=False,
        default=False,
        help_text="Although what it needs is not all there. A broken one is refused anyway.",
    )


class SlotRollbackSerializer(StrictSerializer):
    slot = serializers.ChoiceField(choices=Slot.choices, help_text="Weights have `/rag/fusion/weights/rollback`.")
    reason = ReasonField()


class ImportQuerySerializer(StrictSerializer):
    name = serializers.CharField(
        required=False, max_length=128, help_text="Of the model, when it is not to keep its own."
    )


class ImportedSerializer(serializers.Serializer[Any]):
    version = serializers.CharField(help_text="`name@number`.")
    is_new = serializers.BooleanField(help_text="False when it was here already.")


class PastQuerySerializer(StrictSerializer):
    at = serializers.DateTimeField(required=False, help_text="ISO 8601; UTC unless it says otherwise. Default: now.")


class PastEntrySerializer(serializers.Serializer[Any]):
    scope = serializers.CharField(help_text="`global`, or a collection's slug.")
    slot = serializers.CharField(help_text="`weights`, a kind of model, or `index`.")
    role = serializers.ChoiceField(choices=Role.choices)
    what = serializers.CharField()
    since = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True, help_text="Null: it is live still.")
    by = serializers.CharField()
    reason = serializers.CharField()
    facts = serializers.DictField()


class PastSerializer(serializers.Serializer[Any]):
    at = serializers.DateTimeField()
    live = PastEntrySerializer(many=True)
