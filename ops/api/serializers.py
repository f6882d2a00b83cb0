"""The shapes of the answers of operations."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from ops.contracts.health import State

STATES = [state.value for state in State]


class LiveSerializer(serializers.Serializer[Any]):
    status = serializers.CharField(help_text="Always ok.")


class CheckSerializer(serializers.Serializer[Any]):
    """One dependency. All but name and state are for those with the scope ``ops:read``."""

    name = serializers.CharField()
    state = serializers.ChoiceField(choices=STATES)
    critical = serializers.BooleanField(required=False, help_text="Without it the server can't answer.")
    latency_ms = serializers.FloatField(required=False)
    since = serializers.DateTimeField(required=False, help_text="When this process first saw this state.")
    detail = serializers.CharField(required=False, allow_blank=True)


class ReadySerializer(serializers.Serializer[Any]):
    status = serializers.ChoiceField(choices=STATES)
    checks = CheckSerializer(many=True)


class StageFiguresSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField(help_text="Since the process started.")
    errors = serializers.IntegerField(help_text="Since the process started.")  # type: ignore[assignment]
    window_count = serializers.IntegerField(help_text="Over the last 5 to 10 minutes, as the percentiles.")
    p50_ms = serializers.FloatField(allow_null=True, help_text="Within 4.9 %.")
    p95_ms = serializers.FloatField(allow_null=True, help_text="Within 4.9 %.")


class CacheHitsSerializer(serializers.Serializer[Any]):
    full = serializers.IntegerField()
    feature = serializers.IntegerField()
    none = serializers.IntegerField()


class CountersSerializer(serializers.Serializer[Any]):
    uptime_s = serializers.FloatField()
    queries = serializers.IntegerField()
    query_errors = serializers.IntegerField()


class BasicMetricsSerializer(serializers.Serializer[Any]):
    counters = CountersSerializer()
    stages = serializers.DictField(child=StageFiguresSerializer())


class QueryStatsSerializer(serializers.Serializer[Any]):
    queries = serializers.IntegerField()
    errors = serializers.IntegerField()  # type: ignore[assignment]
    cache_hits = CacheHitsSerializer()
    cache_lookups = serializers.DictField(
        child=serializers.DictField(child=serializers.DictField(child=serializers.IntegerField())),
        help_text="By cache (full, feature), then hit or miss, then reason.",
    )
    stages = serializers.DictField(child=StageFiguresSerializer())


class JsonMetricsSerializer(serializers.Serializer[Any]):
    system = serializers.DictField(help_text="cpu, load, memory, swap, disk, process; sizes in bytes.")
    query_stats = QueryStatsSerializer()
    models = serializers.ListField(child=serializers.DictField())


class VariableSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    value = serializers.JSONField(help_text="Secrets read ********.")
    origin = serializers.CharField(help_text="default, default (prod), environment, .env or file.")
    is_secret = serializers.BooleanField()
    help = serializers.CharField()


class EnvironmentSerializer(serializers.Serializer[Any]):
    stage = serializers.CharField()
    variables = VariableSerializer(many=True)


class DoubtSerializer(serializers.Serializer[Any]):
    level = serializers.ChoiceField(choices=["error", "warning"])
    code = serializers.ChoiceField(choices=["invalid", "deprecated", "unknown", "risky"])
    name = serializers.CharField()
    message = serializers.CharField()


class ValidationSerializer(serializers.Serializer[Any]):
    valid = serializers.BooleanField(help_text="Whether there is no error; warnings may remain.")
    findings = DoubtSerializer(many=True)
