"""Stages and queries as Prometheus metrics."""

from __future__ import annotations

from ops.contracts.metrics import declare_counter, declare_latency

STAGE_DURATION = declare_latency("zenglow_stage_duration_seconds", "Duration of each stage.", ("stage",))
STAGE_FAILURES = declare_counter("zenglow_stage_failures", "Stages that ended in an exception.", ("stage",))
QUERIES = declare_counter(
    "zenglow_queries", "Queries by what answered them.", ("cache", "retrieval_mode", "variant", "status")
)


def observe_stage(name: str, duration_ms: float, failed: bool) -> None:
    """A sink of `ops.contracts.stage`."""
    STAGE_DURATION.labels(name).observe(duration_ms / 1000)
    if failed:
        STAGE_FAILURES.labels(name).inc()


def count_query(cache: str, retrieval_mode: str, variant: str, status: int) -> None:
    """Every label has few values: ``status`` is written as its class, such as ``2xx``."""
    QUERIES.labels(cache, retrieval_mode, variant, f"{status // 100}xx").inc()
