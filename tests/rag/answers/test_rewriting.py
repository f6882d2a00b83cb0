"""A follow-up becomes a question of its own: by the agent's model, or by rules when it is no help."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from ops.contracts import model_calls
from ops.contracts.model_calls import ModelCall
from rag.answers import rewriting, service
from rag.answers.backends.http import breaker_of
from rag.answers.contracts import AnswerRequest, Turn
from tests.rag.answers.model_server import ModelServer
from tests.rag.pipeline.support import person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "bees", "agents")]

HISTORY = (Turn("user", "How are varroa mites treated in winter?"), Turn("assistant", "With oxalic acid. [1]"))
BY_RULES = "And in summer? varroa mites treated winter"
BY_MODEL = "How are varroa mites treated in summer?"


def searched_for(**more: Any) -> str:
    given: dict[str, Any] = {"query": "And in summer?", "collection": "bees", "agent": "bee", "history": HISTORY}
    request = AnswerRequest(**given | more)
    return service.prepare(request, person("somebody"), request_id=str(uuid.uuid4())).standalone_query


def test_the_model_is_given_what_was_said_and_its_question_is_searched_for(server: ModelServer) -> None:
    server.replies = [[f"Question: “{BY_MODEL}”\n"]]
    assert searched_for() == BY_MODEL
    (asked,) = server.asked
    said = json.dumps(asked["messages"])
    assert "varroa mites treated in winter" in said
    assert "With oxalic acid." in said
    assert asked["options"]["temperature"] == 0


def test_the_answer_is_made_of_what_the_models_question_finds(server: ModelServer) -> None:
    server.replies = [[BY_MODEL], ["With formic acid [1]."]]
    request = AnswerRequest(query="And in summer?", collection="bees", agent="bee", history=HISTORY)
    answer = service.answer(request, person("somebody"), request_id=str(uuid.uuid4()))
    assert (answer.query, answer.standalone_query) == ("And in summer?", BY_MODEL)
    assert answer.timings_ms["condense_ms"] > 0
    assert "And in summer?" in server.asked[-1]["messages"][-1]["content"], "the person's own words are answered"


def test_its_call_tells_how_the_model_was_asked_and_what_it_read_and_wrote(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[ModelCall] = []
    monkeypatch.setattr(model_calls, "_sinks", [lambda call: calls.append(call) if call.kind == "llm" else None])
    server.replies = [[BY_MODEL]]
    searched_for()
    (call,) = calls
    assert (call.model, call.provider, call.operation) == ("ollama/mistral:7b", "ollama", "condense")
    assert (call.temperature, call.max_tokens, call.finish_reason) == (0.0, rewriting.MAX_TOKENS, "stop")
    assert call.tokens > call.output_tokens > 0


@pytest.mark.parametrize("fault", ["500", "cut", "garbage", "404"])
def test_a_model_that_fails_leaves_it_to_the_rules(server: ModelServer, fault: str) -> None:
    server.fault = fault
    assert searched_for() == BY_RULES


def test_a_model_that_is_slow_is_not_waited_for(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewriting, "PATIENCE_S", 0.05)
    server.fault = "silent"
    assert searched_for() == BY_RULES


@pytest.mark.parametrize("written", ["", " \n ", "Sure!\nHere it is:\nHow?", "x" * 100_000, "a\x00b"])
def test_what_is_no_question_leaves_it_to_the_rules(server: ModelServer, written: str) -> None:
    server.replies = [[written]]
    assert searched_for() == BY_RULES


def test_nothing_is_asked_where_there_is_nothing_to_ask(server: ModelServer) -> None:
    assert searched_for(agent="extractive") == BY_RULES
    assert searched_for(in_haste=True) == BY_RULES
    assert searched_for(history=()) == "And in summer?"
    for _ in range(3):
        breaker_of(server.url).failed("it was down")
    assert searched_for() == BY_RULES
    assert server.asked == []
