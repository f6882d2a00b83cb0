"""Stages and queries as Prometheus metrics."""

from __future__ import annotations

import threading

from ops.contracts.metrics import declare_counter, declare_latency
from ops.contracts.model_calls import ModelCall

STAGE_DURATION = declare_latency("zenglow_stage_duration_seconds", "Duration of each stage.", ("stage",))
STAGE_FAILURES = declare_counter("zenglow_stage_failures", "Stages that ended in an exception.", ("stage",))
QUERIES = declare_counter(
    "zenglow_queries", "Queries by what answered them.", ("cache", "retrieval_mode", "variant", "status")
)

MODEL_CALL_DURATION = declare_latency(
    "zenglow_model_call_duration_seconds",
    "Duration of each call of a model version, as its caller saw it.",
    ("kind", "model", "operation"),
)
MODEL_CALL_ERRORS = declare_counter(
    "zenglow_model_call_errors", "Calls of a model version that failed.", ("kind", "model", "operation")
)
MODEL_ITEMS = declare_counter(
    "zenglow_model_items", "Texts, candidates, … that a model version worked on.", ("kind", "model", "operation")
)
MODEL_TOKENS = declare_counter(
    "zenglow_model_tokens", "The model's own tokens of what it read and wrote.", ("kind", "model", "operation")
)
MODEL_OUTPUT_TOKENS = declare_counter(
    "zenglow_model_output_tokens", "Those of the model's tokens that it wrote.", ("kind", "model", "operation")
)

MOST_MODELS = 64
"""Model versions with a label of their own in one process; those that come later share `OTHER_MODELS`."""
OTHER_MODELS = "other"

_labelled_models: set[str] = set()
_labelling = threading.Lock()


def observe_stage(name: str, duration_ms: float, failed: bool) -> None:
    """A sink of `ops.contracts.stage`."""
    STAGE_DURATION.labels(name).observe(duration_ms / 1000)
    if failed:
        STAGE_FAILURES.labels(name).inc()


def count_query(cache: str, retrieval_mode: str, variant: str, status: int) -> None:
    """Every label has few values: ``status`` is written as its class, such as ``2xx``."""
    QUERIES.labels(cache, retrieval_mode, variant, f"{status // 100}xx").inc()


def observe_model_call(call: ModelCall) -> None:
    """A sink of `ops.contracts.model_calls`."""
    labels = call.kind, _model_label(call.model), call.operation
    MODEL_CALL_DURATION.labels(*labels).observe(call.duration_ms / 1000)
    if call.error:
        MODEL_CALL_ERRORS.labels(*labels).inc()
    if call.items:
        MODEL_ITEMS.labels(*labels).inc(call.items)
    if call.tokens or call.output_tokens:
        MODEL_TOKENS.labels(*labels).inc(call.tokens + call.output_tokens)
    if call.output_tokens:
        MODEL_OUTPUT_TOKENS.labels(*labels).inc(call.output_tokens)


def _model_label(model: str) -> str:
    if model in _labelled_models:
        return model
    with _labelling:
        if len(_labelled_models) >= MOST_MODELS:
            return OTHER_MODELS
        _labelled_models.add(model)
    return model
