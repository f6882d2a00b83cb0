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
    """Since the processes that run now were started."""

    uptime_s = serializers.FloatField(help_text="Of the process that runs longest.")
    queries = serializers.IntegerField()
    query_errors = serializers.IntegerField()
    cache_hits = CacheHitsSerializer()


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


class CpuSerializer(serializers.Serializer[Any]):
    count = serializers.IntegerField()
    percent = serializers.FloatField(help_text="0 to 100, since the figures were read before.")


class LoadSerializer(serializers.Serializer[Any]):
    """Load averages over 1, 5 and 15 minutes."""

    def get_fields(self) -> dict[str, Any]:
        return {name: serializers.FloatField() for name in ("1m", "5m", "15m")}


class MemorySerializer(serializers.Serializer[Any]):
    total_bytes = serializers.IntegerField()
    available_bytes = serializers.IntegerField()
    percent = serializers.FloatField()


class SwapSerializer(serializers.Serializer[Any]):
    total_bytes = serializers.IntegerField()
    used_bytes = serializers.IntegerField()
    percent = serializers.FloatField()


class DiskSerializer(serializers.Serializer[Any]):
    """The disk of the data folder."""

    total_bytes = serializers.IntegerField()
    free_bytes = serializers.IntegerField()
    percent = serializers.FloatField()


class GpuSerializer(serializers.Serializer[Any]):
    index = serializers.IntegerField()
    name = serializers.CharField()
    percent = serializers.FloatField(allow_null=True)
    memory_used_bytes = serializers.IntegerField()
    memory_total_bytes = serializers.IntegerField()
    temperature_celsius = serializers.FloatField(allow_null=True)
    power_watts = serializers.FloatField(allow_null=True)


class ProcessSerializer(serializers.Serializer[Any]):
    pid = serializers.IntegerField()
    role = serializers.CharField(help_text="web, worker or command.")
    cpu_percent = serializers.FloatField(help_text="Above 100 where more than one core is busy.")
    memory_bytes = serializers.IntegerField()
    threads = serializers.IntegerField()
    open_files = serializers.IntegerField(allow_null=True)
    started_at = serializers.FloatField(help_text="Seconds since 1970.")


class SystemSerializer(serializers.Serializer[Any]):
    cpu = CpuSerializer()
    load = LoadSerializer()
    memory = MemorySerializer()
    swap = SwapSerializer()
    disk = DiskSerializer()
    gpus = GpuSerializer(many=True, help_text="Empty without an NVIDIA driver.")
    processes = ProcessSerializer(many=True, help_text="Ours on this machine.")


class JsonMetricsSerializer(serializers.Serializer[Any]):
    system = SystemSerializer()
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
    code = serializers.ChoiceField(
        choices=["missing", "invalid", "out_of_bounds", "contradictory", "deprecated", "unknown", "risky"]
    )
    name = serializers.CharField()
    message = serializers.CharField()


class ValidationSerializer(serializers.Serializer[Any]):
    valid = serializers.BooleanField(help_text="Whether there is no error; warnings may remain.")
    findings = DoubtSerializer(many=True)
