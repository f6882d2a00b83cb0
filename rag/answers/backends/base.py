"""The protocol of what writes answers, and its errors.

BackendError
├── BackendUnavailableError   it does not answer, answers 429 or 5xx, is too slow, or is left alone for a while
├── BackendRefusedError       it answers, and says no: an unknown model, a bad key, a prompt that is too long
└── BackendBrokenError        what it sends is no answer
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from rag.answers.contracts import Usage
from rag.answers.evidence import Evidence
from rag.answers.selection import NOTHING, Selected


class BackendError(Exception):
    """The message is a sentence for a person, without addresses or secrets."""


class BackendUnavailableError(BackendError):
    """Another time, or another backend, may answer."""


class BackendRefusedError(BackendError):
    """The same again will be refused again. ``status``: of HTTP, where a server said it."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class BackendBrokenError(BackendError):
    """Its answer can't be read."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Generation:
    """What is to be written. Models read ``messages``; the extractive answerer ``selected`` from the ``evidence``.

    ``model`` is the server's own name of it. ``window_tokens``: how long its context may be, where it can be told.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    evidence: Evidence | None = None
    selected: Selected = NOTHING
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    window_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Something that arrived. ``is_literal``: brackets in ``text`` are no citations; ``cites``: a passage's number.

    The last piece has ``finish_reason`` and, where the server tells, ``usage``.
    """

    text: str = ""
    is_literal: bool = False
    cites: int | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    finish_reason: Literal["stop", "length", "tool_calls"] | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a download is; bytes are ``None`` where the server does not tell."""

    status: str
    completed_bytes: int | None = None
    total_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that a server has. ``window_tokens`` where it tells."""

    name: str
    window_tokens: int | None = None
    size_bytes: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


class Backend(Protocol):
    """One way to have an answer written. Safe to use from several event loops at once."""

    name: str
    """``extractive``, ``ollama``, ``openai``."""

    def stream(self, generation: Generation) -> AsyncGenerator[Piece, None]:
        """The answer as it is written; the last piece has a ``finish_reason``. Raises `BackendError`.

        Closing the iterator ends the work upstream. Nothing is read ahead of whoever iterates.
        """
        ...

    async def models(self) -> tuple[ModelInfo, ...]:
        """What can be asked for. Raises `BackendError`."""
        ...

    async def window(self, model: str) -> int | None:
        """The model's longest context in tokens; ``None`` where the server does not tell. Raises `BackendError`."""
        ...

    async def count_tokens(self, model: str, texts: Sequence[str]) -> list[int]:
        """The model's own tokens of each text; estimated on the safe side where the server does not count."""
        ...
