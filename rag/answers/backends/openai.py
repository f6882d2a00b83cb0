"""Any server that speaks OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat (SSE)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from rag.answers.backends import tokens
from rag.answers.backends.base import (
    BackendBrokenError,
    BackendError,
    BackendUnavailableError,
    Generation,
    ModelInfo,
    Piece,
)
from rag.answers.backends.http import ModelServer
from rag.answers.backends.windows import Windows
from rag.answers.contracts import Usage

LABEL = "The model server"
_WINDOW_FIELDS = ("max_model_len", "context_length", "context_window")
"""As vLLM, many gateways, and Groq call it in ``/models``; llama.cpp has ``meta.n_ctx_train``."""


class OpenAiBackend:
    name = "openai"

    def __init__(self, url: str, api_key: str = "") -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.server = ModelServer(LABEL, url.rstrip("/"), headers)
        # llama.cpp and vLLM count tokens, beside and not below /v1.
        self._root = ModelServer(LABEL, self.server.url.removesuffix("/v1"), headers)
        self._counts = True
        self._windows = Windows()

    async def stream(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        body: dict[str, Any] = {
            "model": generation.model,
            "messages": [{"role": message.role, "content": message.content} for message in generation.messages],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": generation.temperature,
            "max_tokens": generation.max_tokens,
        }
        if generation.stop:
            body["stop"] = list(generation.stop)
        if generation.tools:
            body["tools"] = list(generation.tools)
            if generation.tool_choice is not None:
                body["tool_choice"] = generation.tool_choice
        reason: str | None = None
        usage: Usage | None = None
        async with aclosing(self.server.lines("/chat/completions", body)) as lines:
            async for line in lines:
                if not line.startswith("data:"):
                    continue  # a comment, or a field that means nothing here
                data = line[5:].strip()
                if data == "[DONE]":
                    break
                event = _object(data)
                usage = _usage(event, generation) or usage
                choices = event.get("choices")
                choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
                delta = choice.get("delta")
                delta = delta if isinstance(delta, dict) else {}
                calls = delta.get("tool_calls")
                if isinstance(calls, list) and calls:
                    yield Piece(tool_calls=tuple(call for call in calls if isinstance(call, dict)))
                if isinstance(text := delta.get("content"), str) and text:
                    yield Piece(text)
                reason = choice.get("finish_reason") or reason
        if reason is None:
            raise BackendUnavailableError(f"{LABEL} ended its answer in the middle.")
        known = reason if reason in {"stop", "length", "tool_calls"} else "stop"
        yield Piece(finish_reason=known, usage=usage)  # type: ignore[arg-type]

    async def models(self) -> tuple[ModelInfo, ...]:
        return tuple(ModelInfo(name, _window_of(entry)) for name, entry in (await self._listed()).items())

    async def window(self, model: str) -> int | None:
        if self.server.is_left_alone:
            return None
        return await self._windows.get(model, self._read_window)

    async def _read_window(self, model: str) -> int | None:
        entry = (await self._listed()).get(model)
        return None if entry is None else _window_of(entry)

    async def _listed(self) -> dict[str, dict[str, Any]]:
        answer = await self.server.get_json("GET", "/models")
        listed = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(listed, list):
            raise BackendBrokenError(f"{LABEL} does not answer with a list of models.")
        return {str(one["id"]): one for one in listed if isinstance(one, dict) and one.get("id")}

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        if self._counts:
            try:
                return [await self._count(model, text) for text in texts]
            except BackendError:
                self._counts = False
        return tokens.estimate(f"openai/{model}", texts)

    async def _count(self, model: str, text: str) -> int:
        body = {"model": model, "prompt": text, "content": text, "add_special_tokens": False}
        answer = await self._root.get_json("POST", "/tokenize", body)
        found = answer.get("count", answer.get("tokens")) if isinstance(answer, dict) else None
        if isinstance(found, list):
            return len(found)
        if isinstance(found, int) and not isinstance(found, bool) and found >= 0:
            return found
        raise BackendBrokenError(f"{LABEL} does not count tokens.")


def _object(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BackendBrokenError(f"{LABEL} sends what is no JSON.") from error
    if not isinstance(event, dict):
        raise BackendBrokenError(f"{LABEL} sends what is no answer.")
    fault = event.get("error")
    if fault:
        said = fault.get("message") if isinstance(fault, dict) else fault
        raise BackendUnavailableError(f"{LABEL} says: {' '.join(str(said).split())[:300]}")
    return event


def _usage(event: dict[str, Any], generation: Generation) -> Usage | None:
    told = event.get("usage")
    if not isinstance(told, dict):
        return None
    prompt, written = told.get("prompt_tokens"), told.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(written, int):
        return None
    characters = sum(len(message.content) for message in generation.messages)
    tokens.learn(f"openai/{generation.model}", characters, prompt)
    return Usage(prompt, written)


def _window_of(entry: dict[str, Any]) -> int | None:
    meta = entry.get("meta")
    told = [entry.get(name) for name in _WINDOW_FIELDS] + [meta.get("n_ctx_train") if isinstance(meta, dict) else None]
    return next((one for one in told if isinstance(one, int) and not isinstance(one, bool) and one > 0), None)
