"""A conversation as a question, and an answer as a completion."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ops.contracts.problems import InvalidRequest
from rag.answers import wire
from rag.answers.contracts import (
    Answer,
    AnswerEvent,
    AnswerRequest,
    Citation,
    DoneEvent,
    ErrorEvent,
    TokenEvent,
    ToolCallEvent,
    Turn,
)

FINISH_REASONS = {"abstained": "stop", "error": "stop"}

LinkOf = Callable[[Answer, Citation], str]
"""The address of what a citation refers to."""


def question(given: Mapping[str, Any], agent: str, collection: str | None) -> AnswerRequest:
    """The last thing that the user said, with what was said before. Raises `InvalidRequest`.

    An agent has a persona of its own: system messages are left out. What a tool returned becomes part of what was said.
    """
    said: list[Turn] = []
    for number, message in enumerate(given["messages"]):
        text = _text(message.get("content"), number)
        match message["role"]:
            case "user":
                said.append(Turn("user", text))
            case "assistant":
                if text:
                    said.append(Turn("assistant", text))
            case "tool" | "function":
                said.append(Turn("assistant", f"[The tool returned] {text}"))
    last = max((place for place, turn in enumerate(said) if turn.role == "user"), default=None)
    if last is None:
        fault = "There is no message of the role 'user' to answer."
        raise InvalidRequest(fault, errors={"messages": fault})
    stop = given.get("stop") or ()
    return AnswerRequest(
        query=said[last].content,
        collection=given.get("collection") or collection,
        agent=agent,
        filters=given.get("filters") or {},
        history=tuple(said[:last] + said[last + 1 :]),
        max_tokens=given.get("max_completion_tokens") or given.get("max_tokens"),
        temperature=given.get("temperature"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tools=tuple(given.get("tools") or ()),
        tool_choice=given.get("tool_choice"),
    )


def completion(answer: Answer, model: str, link: LinkOf) -> dict[str, Any]:
    """A whole answer as ``chat.completion``. What OpenAI has no place for stands under ``zenglow``."""
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.text or None if answer.tool_calls else answer.text,
        "refusal": None,
        "annotations": cited_places(answer, link),
    }
    if answer.tool_calls:
        message["tool_calls"] = [dict(call) for call in answer.tool_calls]
    return {
        "id": _id(answer.request_id),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(answer)}],
        "usage": usage(answer),
        "zenglow": extra(answer),
    }


def cited_places(answer: Answer, link: LinkOf) -> list[dict[str, Any]]:
    """Each citation's marker in the text, with the address of the passage."""
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": cited.at,
                "end_index": cited.at + len(f"[{cited.number}]"),
                "title": cited.title or cited.document_id,
                "url": link(answer, cited),
            },
        }
        for cited in answer.citations
    ]


def usage(answer: Answer) -> dict[str, int]:
    prompt, written = answer.usage.prompt_tokens, answer.usage.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}


def finish_reason(answer: Answer) -> str:
    return FINISH_REASONS.get(answer.finish_reason, answer.finish_reason)


def extra(answer: Answer) -> dict[str, Any]:
    """The answer as ``POST /rag/query`` has it, without what the completion holds already."""
    plain = wire.answer_json(answer)
    for name in ("text", "usage", "tool_calls"):
        plain.pop(name, None)
    return plain


class Chunks:
    """An answer's events as ``chat.completion.chunk`` objects, in the order in which OpenAI sends them."""

    def __init__(self, request_id: str, model: str, link: LinkOf, *, include_usage: bool) -> None:
        self._head = {
            "id": _id(request_id),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._link = link
        self._include_usage = include_usage

    def first(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def of(self, event: AnswerEvent) -> Iterator[dict[str, Any]]:
        match event:
            case TokenEvent(text):
                yield self._chunk({"content": text})
            case ToolCallEvent(delta):
                yield self._chunk({"tool_calls": [dict(one) for one in delta]})
            case DoneEvent(answer):
                cited = cited_places(answer, self._link)
                if cited:
                    yield self._chunk({"annotations": cited})
                yield self._chunk({}, finish_reason(answer)) | {"zenglow": extra(answer)}
                if self._include_usage:
                    yield self._head | {"choices": [], "usage": usage(answer)}
            case ErrorEvent(problem, _):
                yield {
                    "error": {
                        "message": problem.get("detail") or problem.get("title"),
                        "type": "server_error",
                        "param": None,
                        "code": str(problem.get("type", "")).rpartition(":")[2].replace("-", "_"),
                    }
                }

    def _chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._head | {"choices": [choice]} | ({"usage": None} if self._include_usage else {})


def framed(value: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False, default=str).encode() + b"\n\n"


LAST = b"data: [DONE]\n\n"


def _id(request_id: str) -> str:
    return f"chatcmpl-{request_id}"


def _text(content: Any, number: int) -> str:
    """A message's text: a string, or the text among its parts. Raises `InvalidRequest`."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    place = f"messages.{number}.content"
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{place}: A text, or a list of parts.", errors={place: "A text, or a list of parts."})
    texts: list[str] = []
    for part in content:
        if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            fault = "Only parts of the type 'text' can be answered."
            raise InvalidRequest(f"{place}: {fault}", errors={place: fault})
        texts.append(part["text"])
    return "\n".join(texts)
