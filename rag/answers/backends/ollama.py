"""Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md (``/api/chat`` and ``/api/pull`` stream NDJSON)."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import httpx

from rag.answers.backends import tokens
from rag.answers.backends.base import (
    BackendBrokenError,
    BackendRefusedError,
    BackendUnavailableError,
    Generation,
    ModelInfo,
    Piece,
    PullProgress,
)
from rag.answers.backends.http import ModelServer
from rag.answers.backends.windows import Windows
from rag.answers.contracts import Usage

LABEL = "Ollama"


class OllamaBackend:
    name = "ollama"

    def __init__(self, url: str) -> None:
        self.server = ModelServer(LABEL, url.rstrip("/"))
        self._windows = Windows()

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        options: dict[str, Any] = {"temperature": generation.temperature, "num_predict": generation.max_tokens}
        if generation.stop:
            options["stop"] = list(generation.stop)
        if generation.window_tokens is not None:
            options["num_ctx"] = generation.window_tokens
        messages = [{"role": message.role, "content": message.content} for message in generation.messages]
        body: dict[str, Any] = {"model": generation.model, "messages": messages, "stream": True, "options": options}
        if generation.tools:
            body["tools"] = list(generation.tools)
        has_called = False
        async with aclosing(self._events(body)) as events:
            async for event in events:
                message = event.get("message")
                message = message if isinstance(message, dict) else {}
                calls = message.get("tool_calls")
                if isinstance(calls, list) and calls:
                    has_called = True
                    yield Piece(tool_calls=tuple(_as_openai(i, call) for i, call in enumerate(calls)))
                if isinstance(text := message.get("content"), str) and text:
                    yield Piece(text)
                if event.get("done") is True:
                    yield _last(event, generation, has_called)
                    return
        raise BackendUnavailableError(f"{LABEL} ended its answer in the middle.")

    async def _events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        try:
            async with aclosing(self.server.lines("/api/chat", body)) as lines:
                async for line in lines:
                    yield _object(line)
        except BackendRefusedError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            model = body["model"]
            raise BackendRefusedError(
                f"{LABEL} has no model {model}. Download it: manage.py answers pull {model}", error.status
            ) from error

    async def models(self) -> tuple[ModelInfo, ...]:
        answer = await self.server.get_json("GET", "/api/tags")
        listed = answer.get("models") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise BackendBrokenError(f"{LABEL} does not answer with a list of models.")
        return tuple(
            ModelInfo(str(one["name"]), size_bytes=_count(one.get("size")), details=one.get("details") or {})
            for one in listed
            if isinstance(one, dict) and one.get("name")
        )

    async def window(self, model: str) -> int | None:
        if self.server.is_left_alone:
            return None
        return await self._windows.get(model, self._read_window)

    async def _read_window(self, model: str) -> int | None:
        shown = await self.server.get_json("POST", "/api/show", {"model": model})
        facts = shown.get("model_info") if isinstance(shown, dict) else None
        if not isinstance(facts, dict):
            return None
        return next((_count(value) for name, value in facts.items() if str(name).endswith(".context_length")), None)

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        return tokens.estimate(f"ollama/{model}", texts)

    async def pull(self, model: str) -> AsyncGenerator[PullProgress, None]:
        """Download a model; how far it is, as the server tells. Closing the iterator ends the download."""
        async with aclosing(self.server.lines("/api/pull", {"model": model, "stream": True}, math.inf)) as lines:
            async for line in lines:
                event = _object(line)
                yield PullProgress(
                    str(event.get("status", "")), _count(event.get("completed")), _count(event.get("total"))
                )


def _object(line: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BackendBrokenError(f"{LABEL} sends what is no JSON.") from error
    if not isinstance(event, dict):
        raise BackendBrokenError(f"{LABEL} sends what is no answer.")
    if isinstance(fault := event.get("error"), str):
        raise BackendUnavailableError(f"{LABEL} says: {' '.join(fault.split())[:300]}")
    return event


def _last(event: dict[str, Any], generation: Generation, has_called: bool) -> Piece:
    prompt, written = _count(event.get("prompt_eval_count")) or 0, _count(event.get("eval_count")) or 0
    characters = sum(len(message.content) for message in generation.messages)
    tokens.learn(f"ollama/{generation.model}", characters, prompt)
    reason = "tool_calls" if has_called else "length" if event.get("done_reason") == "length" else "stop"
    return Piece(finish_reason=reason, usage=Usage(prompt, written))  # type: ignore[arg-type]


def _as_openai(index: int, call: Any) -> dict[str, Any]:
    """Ollama's tool call (arguments as an object, no id) in the form of OpenAI's."""
    function = call.get("function") if isinstance(call, dict) else None
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments", {})
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    called = {"name": str(function.get("name", "")), "arguments": text}
    return {"index": index, "id": f"call_{index}", "type": "function", "function": called}


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
