"""Streaming from a server of models: time-outs, retries before the first token, and a circuit breaker.

Nothing is read ahead: the server is slowed by TCP when whoever reads is slow. Closing the stream closes the
connection, which is how Ollama, llama.cpp and vLLM are told to stop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
from django.conf import settings

from ops import outgoing
from rag.answers.backends.base import (
    BackendBrokenError,
    BackendError,
    BackendRefusedError,
    BackendUnavailableError,
)
from rag.pipeline.remote.guard import CircuitBreaker

logger = logging.getLogger(__name__)

ATTEMPTS = 2
RETRY_PAUSE_S = 0.2
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try, or another server, may not meet."""
LONGEST_LINE_BYTES = 1024 * 1024
LONGEST_ANSWER_BYTES = 16 * 1024 * 1024
LONGEST_REASON = 300

_breakers: dict[str, CircuitBreaker] = {}


def breaker_of(url: str) -> CircuitBreaker:
    """The one breaker of a server in this process."""
    return _breakers.setdefault(url, CircuitBreaker(settings.RAG_MODEL_PAUSE_S))


def forget_breakers() -> None:
    """Take every server for well again: for tests."""
    _breakers.clear()


@dataclass(frozen=True, slots=True)
class ModelServer:
    """One server. ``label`` is how it is called in messages: its kind, never its address."""

    label: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_left_alone(self) -> bool:
        """Whether it failed lately; asking does not count as a try."""
        return breaker_of(self.url).is_open

    async def get_json(self, method: str, path: str, body: Any = None) -> Any:
        """A short answer. Raises `BackendError`; a failure opens no breaker, as nobody waits for an answer of it."""
        timeout = httpx.Timeout(settings.RAG_MODEL_CONNECT_TIMEOUT_S)
        try:
            async with (
                outgoing.async_client(timeout=timeout) as client,
                client.stream(method, self.url + path, json=body, headers=dict(self.headers)) as response,
            ):
                content = await _bounded(response)
                _ensure_ok(self.label, response.status_code, content)
                return json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BackendBrokenError(f"{self.label} does not answer with JSON.") from error
        except Exception as error:
            raise explained(self.label, error) from error

    async def lines(
        self, path: str, body: Mapping[str, Any], total_s: float | None = None
    ) -> AsyncGenerator[str, None]:
        """The lines of a streamed answer that aren't empty. Raises `BackendError`.

        Tried again when nothing has arrived yet; after the first line a failure is final. ``total_s``: the longest
        that it may take, without it as long as an answer may.
        """
        breaker = breaker_of(self.url)
        if not breaker.admits():
            raise BackendUnavailableError(
                f"{self.label} is left alone for some seconds, as it failed: {breaker.reason}"
            )
        deadline = time.monotonic() + (settings.RAG_MODEL_TOTAL_TIMEOUT_S if total_s is None else total_s)
        attempt = 1
        while True:
            has_begun = False
            try:
                async with aclosing(self._once(path, body, deadline)) as lines:
                    async for line in lines:
                        has_begun = True
                        yield line
                breaker.succeeded()
                return
            except BackendUnavailableError as error:
                if has_begun or attempt == ATTEMPTS or time.monotonic() >= deadline:
                    if breaker.failed(str(error)):
                        logger.warning("%s is left alone for some seconds: %s", self.label, error)
                    raise
                logger.info("%s is asked again: %s", self.label, error)
                attempt += 1
                await asyncio.sleep(RETRY_PAUSE_S)
            except BackendRefusedError:
                breaker.succeeded()  # it answers
                raise
            except BackendBrokenError as error:
                breaker.failed(str(error))
                raise

    async def _once(self, path: str, body: Mapping[str, Any], deadline: float) -> AsyncGenerator[str, None]:
        patience_s: float = settings.RAG_MODEL_FIRST_TOKEN_TIMEOUT_S
        timeout = httpx.Timeout(patience_s, connect=settings.RAG_MODEL_CONNECT_TIMEOUT_S)
        try:
            async with (
                outgoing.async_client(timeout=timeout) as client,
                client.stream("POST", self.url + path, json=body, headers=dict(self.headers)) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    _ensure_ok(self.label, response.status_code, await _bounded(response))
                async with aclosing(_lines(response)) as lines:
                    while True:
                        left_s = deadline - time.monotonic()
                        if left_s <= 0:
                            raise BackendUnavailableError(f"{self.label} did not finish in time.")
                        try:
                            async with asyncio.timeout(min(patience_s, left_s)):
                                line = await anext(lines)
                        except StopAsyncIteration:
                            return
                        yield line
        except Exception as error:
            raise explained(self.label, error) from error


async def _lines(response: httpx.Response) -> AsyncGenerator[str, None]:
    """Lines, of bounded length whatever the server sends."""
    held = b""
    total = 0
    async for block in response.aiter_bytes():
        held += block
        total += len(block)
        *whole, held = held.split(b"\n")
        if len(held) > LONGEST_LINE_BYTES or total > LONGEST_ANSWER_BYTES:
            raise BackendBrokenError("The model's server sends more than an answer can be.")
        for line in whole:
            if line.strip():
                yield line.decode("utf-8", "replace").rstrip("\r")
    if held.strip():
        yield held.decode("utf-8", "replace")


async def _bounded(response: httpx.Response) -> bytes:
    content = bytearray()
    async for block in response.aiter_bytes():
        content += block
        if len(content) > LONGEST_ANSWER_BYTES:
            raise BackendBrokenError("The model's server sends more than an answer can be.")
    return bytes(content)


def _ensure_ok(label: str, status: int, content: bytes) -> None:
    if status == httpx.codes.OK:
        return
    reason = reason_in(content)
    if status == httpx.codes.TOO_MANY_REQUESTS:
        raise BackendUnavailableError(f"{label} has too much to do (429).")
    if status in PASSING:
        raise BackendUnavailableError(f"{label} answers with status {status}{reason}.")
    if status in {401, 403}:
        raise BackendRefusedError(f"{label} refuses our key ({status}).", status)
    raise BackendRefusedError(f"{label} refuses the question with status {status}{reason}.", status)


def reason_in(content: bytes) -> str:
    """What an error body says, short and in one line, as ``: …``; empty when it can't be read."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    found = body.get("error") if isinstance(body, dict) else None
    if isinstance(found, dict):
        found = found.get("message")
    if not isinstance(found, str) or not found.strip():
        return ""
    return ": " + " ".join("".join(c if c.isprintable() else " " for c in found).split())[:LONGEST_REASON].rstrip(".")


def explained(label: str, error: Exception) -> BackendError:
    """What went wrong, in a sentence, without the server's address."""
    if isinstance(error, BackendError):
        return error
    if isinstance(error, outgoing.OutgoingRefusedError):
        return BackendRefusedError(str(error))
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError | httpx.PoolTimeout):
        return BackendUnavailableError(f"{label} can't be reached.")
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return BackendUnavailableError(f"{label} is too slow.")
    if isinstance(error, httpx.InvalidURL | httpx.UnsupportedProtocol):
        return BackendRefusedError(f"The address of {label} is no URL.")
    if isinstance(error, httpx.HTTPError):
        return BackendUnavailableError(f"The connection to {label} broke ({type(error).__name__}).")
    raise error
