from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from ops.contracts import model_calls
from ops.contracts.model_calls import ModelCall, begun_call, model_call, register_call_sink
from ops.instrumentation import prometheus


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[ModelCall]:
    """The calls that a sink of the test's own hears; no other sink does."""
    calls: list[ModelCall] = []
    monkeypatch.setattr(model_calls, "_sinks", [])
    register_call_sink(calls.append)
    return calls


@pytest.fixture
def broken_sink(heard: list[ModelCall]) -> Iterator[list[int]]:
    attempts: list[int] = []

    def fail(call: ModelCall) -> None:
        attempts.append(1)
        raise RuntimeError("the sink is broken")

    model_calls._sinks.insert(0, fail)
    yield attempts
    model_calls._broken_sinks.discard(fail)


def test_a_call_says_who_was_called_and_for_what(heard: list[ModelCall]) -> None:
    before = time.time_ns()
    with model_call("embedder", "org/mini@12", "query", items=1) as call:
        call.tokens, call.batch_size = 7, 4
    (found,) = heard
    assert (found.kind, found.name, found.version, found.operation) == ("embedder", "org/mini", "12", "query")
    assert (found.items, found.tokens, found.batch_size, found.error) == (1, 7, 4, "")
    assert found.duration_ms >= 0
    assert before <= found.started_at_ns <= time.time_ns()


def test_a_call_is_of_our_own_model_unless_it_says_whose(heard: list[ModelCall]) -> None:
    with model_call("embedder", "mini@1"):
        pass
    with model_call("llm", "ollama/mistral:7b", provider="ollama", temperature=0.0, max_tokens=400):
        pass
    told = [(call.provider, call.temperature, call.max_tokens) for call in heard]
    assert told == [("zenglow", None, None), ("ollama", 0.0, 400)]


def test_a_model_without_a_version_has_a_name_alone(heard: list[ModelCall]) -> None:
    with model_call("ltr", "simple"):
        pass
    assert (heard[0].name, heard[0].version) == ("simple", "")


def test_a_call_that_raises_is_heard_with_its_error_and_raises_on(heard: list[ModelCall]) -> None:
    with pytest.raises(ZeroDivisionError), model_call("ltr", "trees@1"):
        raise ZeroDivisionError
    assert heard[0].error == "ZeroDivisionError"


def test_a_call_that_ends_on_another_thread_is_heard_unless_it_was_given_up(heard: list[ModelCall]) -> None:
    went_well, failed, given_up = (begun_call("tts", "voice@2", "speak", items=1) for _ in range(3))
    assert heard == []
    for end in (went_well.end, lambda: failed.end(ValueError("no voice")), lambda: given_up.end(counts=False)):
        thread = threading.Thread(target=end)
        thread.start()
        thread.join()
    assert [(call.kind, call.model, call.operation, call.items, call.error) for call in heard] == [
        ("tts", "voice@2", "speak", 1, ""),
        ("tts", "voice@2", "speak", 1, "ValueError"),
    ]


def test_a_sink_that_raises_breaks_no_call_and_no_other_sink(
    heard: list[ModelCall], broken_sink: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with model_call("ltr", "trees@1"):
            pass
    assert len(heard) == len(broken_sink) == 2
    assert caplog.text.count("A sink of model calls failed") == 1


def test_prometheus_counts_calls_errors_items_and_tokens() -> None:
    labels = {"kind": "ltr", "model": "counted@1", "operation": "rank"}
    for error in ("", "RankerError"):
        prometheus.observe_model_call(
            ModelCall("ltr", "counted@1", "rank", items=30, tokens=5, error=error, duration_ms=20.0)
        )
    assert REGISTRY.get_sample_value("zenglow_model_call_duration_seconds_count", labels) == 2
    assert REGISTRY.get_sample_value("zenglow_model_call_duration_seconds_sum", labels) == pytest.approx(0.04)
    assert REGISTRY.get_sample_value("zenglow_model_call_errors_total", labels) == 1
    assert REGISTRY.get_sample_value("zenglow_model_items_total", labels) == 60
    assert REGISTRY.get_sample_value("zenglow_model_tokens_total", labels) == 10


def test_prometheus_counts_what_a_model_wrote_among_its_tokens_and_by_itself() -> None:
    labels = {"kind": "llm", "model": "ollama/counted", "operation": "generate"}
    prometheus.observe_model_call(ModelCall("llm", "ollama/counted", "generate", tokens=200, output_tokens=6))
    assert REGISTRY.get_sample_value("zenglow_model_tokens_total", labels) == 206
    assert REGISTRY.get_sample_value("zenglow_model_output_tokens_total", labels) == 6


def test_however_many_models_there_were_prometheus_has_a_bounded_number_of_labels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prometheus, "_labelled_models", set())
    labels = {prometheus._model_label(f"m@{number}") for number in range(prometheus.MOST_MODELS + 10)}
    assert len(labels) == prometheus.MOST_MODELS + 1
    assert prometheus.OTHER_MODELS in labels
    assert prometheus._model_label("m@3") == "m@3"
