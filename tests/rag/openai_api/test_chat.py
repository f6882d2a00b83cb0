"""How a conversation becomes a question, and an answer's events become OpenAI's chunks. No server is needed."""

from __future__ import annotations

from typing import Any

import pytest

from ops.contracts.problems import InvalidRequest, TooManyRequests
from rag.answers.contracts import (
    Answer,
    Citation,
    CitationEvent,
    DoneEvent,
    ErrorEvent,
    RetrievalEvent,
    TokenEvent,
    ToolCallEvent,
    Turn,
    Usage,
)
from rag.openai_api import chat
from rag.openai_api.errors import error_body

CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
CITATION = Citation(1, 12, 7, 3, "tea", "Tea", None, 0, 20, "Green tea is brewed.")


def an_answer(text: str = "It is warm. [1]", **changes: Any) -> Answer:
    given: dict[str, Any] = {
        "request_id": "r",
        "query": "q",
        "standalone_query": "q",
        "collection": "papers",
        "agent": "extractive",
        "model": "extractive",
        "text": text,
        "sentences": (),
        "citations": (CITATION,),
        "passages": (),
        "finish_reason": "stop",
        "confidence": 0.9,
        "removed_citations": 0,
        "usage": Usage(10, 5),
        "timings_ms": {},
    }
    return Answer(**(given | changes))


def link(answer: Answer, cited: Citation) -> str:
    return f"https://zenglow.example/documents/{cited.pk}/"


def chunks_of(*events: Any, include_usage: bool = False) -> list[dict[str, Any]]:
    made = chat.Chunks("r", "leonardo", link, include_usage=include_usage)
    return [made.first(), *(chunk for event in events for chunk in made.of(event))]


def test_the_last_thing_the_user_said_is_the_question_and_what_was_before_is_the_conversation() -> None:
    asked = chat.question(
        {
            "messages": [
                {"role": "system", "content": "Be a pirate."},
                {"role": "user", "content": "What is green tea?"},
                {"role": "assistant", "content": None},
                {"role": "assistant", "content": "A drink."},
                {"role": "user", "content": [{"type": "text", "text": "How"}, {"type": "text", "text": "warm?"}]},
            ],
            "max_tokens": 5,
            "max_completion_tokens": 7,
            "stop": ("x",),
            "temperature": 0.0,
        },
        "leonardo",
        "papers",
    )
    assert (asked.query, asked.agent, asked.collection) == ("How\nwarm?", "leonardo", "papers")
    assert asked.history == (Turn("user", "What is green tea?"), Turn("assistant", "A drink."))
    assert (asked.max_tokens, asked.temperature, asked.stop) == (7, 0.0, ("x",))


def test_tools_are_passed_on_and_what_they_returned_is_part_of_what_was_said() -> None:
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {}}}]
    asked = chat.question(
        {
            "messages": [
                {"role": "user", "content": "What time is it?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "12:30", "tool_call_id": "call_1"},
            ],
            "tools": tools,
            "tool_choice": "auto",
        },
        "leonardo",
        None,
    )
    assert (asked.tools, asked.tool_choice) == (tuple(tools), "auto")
    assert (asked.query, asked.history) == ("What time is it?", (Turn("assistant", "[The tool returned] 12:30"),))


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": 3}],
        [{"role": "user", "content": ["x"]}],
    ],
)
def test_what_can_not_be_answered_is_refused(messages: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidRequest, match="message"):
        chat.question({"messages": messages}, "leonardo", None)


def test_calls_of_tools_are_handed_back_whole_and_in_pieces() -> None:
    answer = an_answer("", citations=(), tool_calls=(CALL,), finish_reason="tool_calls")
    whole = chat.completion(answer, "leonardo", link)["choices"][0]
    assert (whole["message"]["content"], whole["message"]["tool_calls"]) == (None, [CALL])
    assert whole["finish_reason"] == "tool_calls"
    streamed = chunks_of(ToolCallEvent((CALL,)), DoneEvent(answer))
    assert streamed[1]["choices"][0]["delta"] == {"tool_calls": [CALL]}
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_stream_holds_the_text_then_the_annotations_then_the_reason_then_the_usage() -> None:
    retrieval = RetrievalEvent("r", "q", "q", "papers", "extractive", (), {})
    events = [retrieval, TokenEvent("It is warm. "), TokenEvent("[1]"), CitationEvent(CITATION)]
    first, one, two, cited, last, used = chunks_of(*events, DoneEvent(an_answer()), include_usage=True)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert one["choices"][0]["delta"]["content"] + two["choices"][0]["delta"]["content"] == "It is warm. [1]"
    (annotation,) = cited["choices"][0]["delta"]["annotations"]
    assert annotation["url_citation"] == {
        "start_index": 12,
        "end_index": 15,
        "title": "Tea",
        "url": "https://zenglow.example/documents/3/",
    }
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (used["choices"], used["usage"]["total_tokens"]) == ([], 15)
    assert len({chunk["id"] for chunk in (first, one, two, cited, last, used)}) == 1


def test_a_model_that_fails_in_the_middle_is_an_error_in_the_stream() -> None:
    problem = {"type": "urn:zenglow:problem:unavailable", "detail": "The model is away. Ask again.", "status": 503}
    assert chunks_of(TokenEvent("It"), ErrorEvent(problem))[-1] == {
        "error": {
            "message": "The model is away. Ask again.",
            "type": "server_error",
            "param": None,
            "code": "unavailable",
        }
    }


@pytest.mark.parametrize(("reason", "shown"), [("stop", "stop"), ("length", "length"), ("abstained", "stop")])
def test_an_answer_ends_for_a_reason_that_clients_know(reason: Any, shown: str) -> None:
    assert chat.finish_reason(an_answer(finish_reason=reason)) == shown


def test_a_refusal_keeps_what_it_says_in_openais_shape() -> None:
    assert error_body(TooManyRequests("Come back in 3 s.", retry_after_s=3), "r") == {
        "error": {
            "message": "Come back in 3 s.",
            "type": "rate_limit_error",
            "param": None,
            "code": "rate_limit_exceeded",
            "request_id": "r",
        }
    }
