"""The shapes of ``POST /rag/query2``."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from ops.api.fields import StrictBooleanField, StrictCharField, StrictIntegerField, StrictSerializer
from ops.contracts.stage import PIPELINE_STAGES
from rag.pipeline.features import SCHEMA


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {
            "oneOf": [
                {"type": ["string", "number", "boolean", "null"]},
                {"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}, "minItems": 1},
            ]
        },
        "maxProperties": 32,
    }
)
class FiltersField(serializers.DictField):
    """Metadata conditions; the values are checked with the rest of the request."""


class SearchRequestSerializer(StrictSerializer):
    """Bounds that depend on settings are checked by `rag.pipeline.query.validate`, for every way in alike."""

    query = StrictCharField(allow_blank=True, trim_whitespace=False, help_text="What to look for, in words.")
    top_k = StrictIntegerField(required=False, min_value=1, help_text="How many passages; at most RAG_TOP_K_MAX.")
    offset = StrictIntegerField(required=False, min_value=0, help_text="Passages to skip.")
    collection = StrictCharField(required=False, help_text="Slug; without it RAG_DEFAULT_COLLECTION.")
    filters = FiltersField(required=False, help_text="Metadata key to a value, or to a list of alternatives.")
    group_by = serializers.ChoiceField(
        choices=["document"], required=False, help_text="Show only the best passage of each document."
    )
    explain = StrictBooleanField(
        required=False, help_text="Return what made each score: features, contributions, fused_parts."
    )


class MatchedBySerializer(serializers.Serializer[Any]):
    dense = serializers.IntegerField(allow_null=True, help_text="Rank in dense retrieval, 1 first.")
    lexical = serializers.IntegerField(allow_null=True, help_text="Rank in BM25, 1 first.")


def _by_feature(described: str, more: dict[str, Any]) -> dict[str, Any]:
    """An object with a number for each feature of the schema, which says what it means."""
    features = {
        feature.name: {"type": "number", "description": f"{feature.meaning} ({feature.low} to {feature.high})"}
        for feature in SCHEMA
    }
    return {"type": "object", "description": described, "properties": features | more}


@extend_schema_field(_by_feature("Only with `explain`: what the ranker saw.", {}))
class FeaturesField(serializers.DictField):
    """Feature to value."""


@extend_schema_field(
    _by_feature(
        "Only with `explain`: each feature's part in ltr_score. The parts and `base` sum to it.",
        {"base": {"type": "number", "description": "What no feature decides: the same for each passage of a query."}},
    )
)
class ContributionsField(serializers.DictField):
    """Feature, or `base`, to its part."""


class FusedPartsSerializer(serializers.Serializer[Any]):
    """Only with `explain`: weight × normalised score. The two sum to fused_score."""

    ltr = serializers.FloatField(help_text="fusion_weights.ltr × ltr_score_norm")
    conceptual = serializers.FloatField(help_text="fusion_weights.conceptual × conceptual_score_norm")


class ResultSerializer(serializers.Serializer[Any]):
    chunk_id = serializers.IntegerField()
    document_id = serializers.CharField()
    source = serializers.CharField()  # type: ignore[assignment]  # a serializer attribute of that name means nothing here
    title = serializers.CharField()
    text = serializers.CharField()
    external_url = serializers.CharField(allow_null=True)
    heading_path = serializers.ListField(child=serializers.CharField())
    page = serializers.IntegerField(allow_null=True)
    start = serializers.IntegerField()
    end = serializers.IntegerField()
    metadata = serializers.DictField()
    matched_by = MatchedBySerializer()
    distance = serializers.FloatField(help_text="Cosine distance, 0 to 2.")
    conceptual_score = serializers.FloatField(help_text="1 − distance.")
    conceptual_score_norm = serializers.FloatField(help_text="Min-max over all candidates.")
    ltr_score = serializers.FloatField()
    ltr_score_norm = serializers.FloatField()
    fused_score = serializers.FloatField()
    features = FeaturesField(required=False)
    contributions = ContributionsField(required=False)
    fused_parts = FusedPartsSerializer(required=False)


class WeightsSerializer(serializers.Serializer[Any]):
    ltr = serializers.FloatField()
    conceptual = serializers.FloatField()


class ModelsSerializer(serializers.Serializer[Any]):
    embedder = serializers.CharField()
    ltr = serializers.CharField()


TimingsSerializer = type(
    "TimingsSerializer",
    (serializers.Serializer,),
    {f"{name}_ms": serializers.FloatField() for name in PIPELINE_STAGES},
)


class SearchResponseSerializer(serializers.Serializer[Any]):
    request_id = serializers.UUIDField()
    query = serializers.CharField()
    top_k = serializers.IntegerField()
    collection = serializers.CharField()
    results = ResultSerializer(many=True)
    fusion_weights = WeightsSerializer()
    fusion_weights_version = serializers.IntegerField()
    feature_schema_version = serializers.IntegerField()
    models = ModelsSerializer()
    ranker = serializers.ChoiceField(choices=["lightgbm", "linear", "simple"])
    safeguard = serializers.CharField(allow_null=True)
    variant = serializers.CharField()
    retrieval_mode = serializers.CharField()
    cache = serializers.ChoiceField(choices=["none", "feature", "full"])
    degraded = serializers.ListField(child=serializers.CharField())
    timings = TimingsSerializer()
