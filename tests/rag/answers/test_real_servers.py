"""What every backend promises, asked of model servers that others wrote.

`tests.rag.answers.test_backends` asks the same of a server of our own, which can misbehave. These run where one of the
addresses is set, and whatever model the server has:

- ``ZENGLOW_TEST_OPENAI_URL``: of llama.cpp, vLLM, … with its ``/v1``. `tiny_gguf` makes a model for llama.cpp.
- ``ZENGLOW_TEST_OLLAMA_URL``: of Ollama.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from urllib.parse import urlsplit

import pytest
from pytest_django.fixtures import Settings

from rag.answers.backends import http
from rag.answers.backends.base import Backend, BackendError, Generation, Message, Piece
from rag.answers.backends.ollama import OllamaBackend
from rag.answers.backends.openai import OpenAiBackend

KINDS: dict[str, Callable[[str], Backend]] = {
    "OPENAI": lambda url: OpenAiBackend(url, "a-key"),
    "OLLAMA": OllamaBackend,
}


@pytest.fixture(params=KINDS)
def backend(request: pytest.FixtureRequest, settings: Settings) -> Backend:
    url = os.environ.get(f"ZENGLOW_TEST_{request.param}_URL")
    if not url:
        pytest.skip(f"no model server: set ZENGLOW_TEST_{request.param}_URL to its address")
    settings.OPS_OUTGOING_ALLOWED = (urlsplit(url).hostname,)
    http.forget_breakers()
    return KINDS[request.param](url)


def generation(backend: Backend, said: str = "What kills mites in winter?", most: int = 24) -> Generation:
    (model, *_) = asyncio.run(backend.models())
    return Generation(model.name, (Message("system", "Be brief."), Message("user", said)), most, 0.8)


async def read(backend: Backend, asked: Generation, most: int = 1000) -> list[Piece]:
    pieces: list[Piece] = []
    async with aclosing(backend.stream(asked)) as arriving:
        async for piece in arriving:
            pieces.append(piece)
            if len(pieces) == most:
                break
    return pieces


def test_it_writes_in_pieces_and_says_why_it_ended(backend: Backend) -> None:
    *pieces, last = asyncio.run(read(backend, generation(backend)))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces).strip()
    assert last.finish_reason in {"stop", "length"}
    assert all(piece.finish_reason is None for piece in pieces)


def test_it_counts_tokens_of_each_text(backend: Backend) -> None:
    model = generation(backend).model
    short, long = asyncio.run(backend.count_tokens(model, ["one", "one two three four five six seven"]))
    assert 0 < short < long


def test_it_is_stopped_in_the_middle_and_can_be_asked_again(backend: Backend) -> None:
    assert len(asyncio.run(read(backend, generation(backend, most=400), most=3))) == 3
    assert len(asyncio.run(read(backend, generation(backend)))) > 3


def test_a_question_that_is_too_long_is_refused_in_a_sentence_and_the_next_is_answered(backend: Backend) -> None:
    (model, *_) = asyncio.run(backend.models())
    with pytest.raises(BackendError, match=r"\.$"):
        asyncio.run(read(backend, generation(backend, "mites " * (2 * (model.window_tokens or 4096)))))
    assert asyncio.run(read(backend, generation(backend)))
