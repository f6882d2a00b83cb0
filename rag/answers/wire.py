"""Events and answers as JSON objects: one form for REST, SSE and websockets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rag.answers.contracts import EVENT_NAMES, Answer, AnswerEvent, DoneEvent, ErrorEvent, RetrievalEvent, TokenEvent


def answer_json(answer: Answer) -> dict[str, Any]:
    """The body of ``POST /rag/query``."""
    return asdict(answer)


def event_json(event: AnswerEvent) -> tuple[str, dict[str, Any]]:
    """An event's name and data."""
    name = EVENT_NAMES[type(event)]
    match event:
        case TokenEvent():  # most are: `asdict` takes ten times as long
            return name, {"text": event.text}
        case DoneEvent():
            return name, answer_json(event.answer)
        case ErrorEvent():
            answer = None if event.answer is None else answer_json(event.answer)
            return name, {"problem": dict(event.problem), "answer": answer}
        case RetrievalEvent() | _:
            return name, asdict(event)
