"""The shapes of ``/registry/evaluations``."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ops.api.fields import StrictCharField, StrictSerializer
from rag.evaluation.measures import MEASURES
from rag.evaluation.stored import DEFAULT_MEASURE, DEFAULT_ROW
from rag.models import EvaluationRun, EvaluationState

LABEL_CHARACTERS = 200


class EvaluationsQuerySerializer(StrictSerializer):
    collection = serializers.CharField(required=False, max_length=64, help_text="Slug.")
    state = serializers.ChoiceField(choices=EvaluationState.choices, required=False)
    label = StrictCharField(  # type: ignore[assignment]  # a serializer attribute of that name means nothing here
        required=False, max_length=LABEL_CHARACTERS, help_text="Exactly this label."
    )
    ranker = StrictCharField(required=False, max_length=200, help_text="`name@version`.")
    embedder = StrictCharField(required=False, max_length=200, help_text="`name@version`.")
    dataset_sha256 = StrictCharField(required=False, max_length=64, help_text="Only runs over these judgements.")
    in_sample = serializers.BooleanField(required=False, allow_null=True, default=None)
    limit = serializers.CharField(required=False)
    cursor = serializers.CharField(required=False)


class NewEvaluationSerializer(StrictSerializer):
    collection = StrictCharField(max_length=64, help_text="Slug of a collection with judged queries.")
    label = StrictCharField(  # type: ignore[assignment]
        required=False, default="", allow_blank=True, max_length=LABEL_CHARACTERS, help_text="What it is for."
    )


class CompareQuerySerializer(StrictSerializer):
    """Both ids, and what of them to compare."""

    a = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Id of the evaluation to compare with.")
    b = serializers.IntegerField(min_value=1, max_value=2**63 - 1, help_text="Id of the evaluation in question.")
    row_a = StrictCharField(required=False, default=DEFAULT_ROW, max_length=100, help_text="Ranking of a.")
    row_b = StrictCharField(required=False, default=DEFAULT_ROW, max_length=100, help_text="Ranking of b.")
    measure = serializers.ChoiceField(
        choices=list(MEASURES), required=False, default=DEFAULT_MEASURE, help_text="What queries are sorted by."
    )


class ProgressSerializer(serializers.Serializer[EvaluationRun]):
    done = serializers.IntegerField(help_text="Queries ranked.")
    total = serializers.IntegerField(help_text="Judged queries.")


class EvaluationSerializer(serializers.Serializer[EvaluationRun]):
    """An evaluation without its values by query."""

    id = serializers.IntegerField()
    collection = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a serializer attribute of that name means nothing here
    state = serializers.ChoiceField(choices=EvaluationState.choices)
    failure = serializers.CharField(help_text="Why it failed; else empty.")
    progress = ProgressSerializer(source="*")
    started_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    dataset_sha256 = serializers.CharField(help_text="Of the judged queries: only equal ones can be compared.")
    ranker = serializers.CharField(help_text="`name@version`; empty until it has begun.")
    embedder = serializers.CharField(help_text="`name@version`; empty until it has begun.")
    in_sample = serializers.BooleanField(
        help_text="The ranker was trained on this collection's judgements: no figure of quality."
    )
    metrics = serializers.DictField(
        child=serializers.DictField(child=serializers.FloatField()), help_text="Row to measure to mean."
    )


class EvaluationDetailSerializer(EvaluationSerializer):
    revision = serializers.CharField(help_text="The code's git revision; empty where it is not known.")
    snapshot = serializers.DictField(help_text="Everything that decided the rankings: models, weights, depth.")
    timings = serializers.DictField(
        child=serializers.DictField(child=serializers.FloatField()),
        help_text="Stage to `p50_ms` and `p95_ms` of one query, uncached.",
    )


class QueryValuesSerializer(serializers.Serializer[Any]):
    query_id = serializers.CharField()
    text = serializers.CharField(help_text="As the query reads now; empty when it is gone.")
    values = serializers.DictField(
        child=serializers.DictField(child=serializers.FloatField()), help_text="Row to measure to value."
    )


class EvaluationQueriesSerializer(serializers.Serializer[Any]):
    results = QueryValuesSerializer(many=True, help_text="By query id.")


class SideSerializer(serializers.Serializer[Any]):
    """One of the two rankings."""

    id = serializers.IntegerField(source="run.pk")
    row = serializers.CharField()
    label = serializers.CharField(source="run.label")  # type: ignore[assignment]
    collection = serializers.CharField(source="run.collection")
    ranker = serializers.CharField(source="run.ranker")
    in_sample = serializers.BooleanField(source="run.in_sample")


class MeasureComparisonSerializer(serializers.Serializer[Any]):
    measure = serializers.CharField()
    a = serializers.FloatField(help_text="Mean of a.")
    b = serializers.FloatField(help_text="Mean of b.")
    difference = serializers.FloatField(source="test.difference", help_text="b − a.")
    relative = serializers.FloatField(allow_null=True, help_text="The difference as a share of a; null where a is 0.")
    p_value = serializers.FloatField(source="test.p_value", help_text="Paired randomisation test, two-sided.")
    wins = serializers.IntegerField(source="test.wins", help_text="Queries in which b is ahead.")
    losses = serializers.IntegerField(source="test.losses")
    ties = serializers.IntegerField(source="test.ties")


class QueryDeltaSerializer(serializers.Serializer[Any]):
    query_id = serializers.CharField()
    text = serializers.CharField()
    a = serializers.FloatField()
    b = serializers.FloatField()
    delta = serializers.FloatField(help_text="b − a.")


class ComparisonSerializer(serializers.Serializer[Any]):
    a = SideSerializer()
    b = SideSerializer()
    in_sample = serializers.BooleanField(help_text="One of the two is: no figure of quality.")
    measures = MeasureComparisonSerializer(many=True)
    measure = serializers.CharField(help_text="Of the queries' values.")
    queries = QueryDeltaSerializer(many=True, help_text="By falling delta.")
