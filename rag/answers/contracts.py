"""What an answer is asked with and what it consists of: all that other rooms (chat, voice, `/v1`, MCP) rely on.

An answer arrives as events, in this order::

    RetrievalEvent  (TokenEvent | CitationEvent | ToolCallEvent)*  (DoneEvent | ErrorEvent)

The text is the tokens joined; the whole `Answer` comes with the last event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rag.pipeline.eligible import Filters

EXTRACTIVE = "extractive"
"""Name of the answerer that needs no model: it quotes the passages."""

Role = Literal["user", "assistant"]
FinishReason = Literal["stop", "length", "abstained", "tool_calls", "stopped", "error"]
"""``stop``: it was whole. ``length``: cut at ``max_tokens``. ``abstained``: the passages don't answer.
``stopped``: the asker had enough. ``error``: the model failed in the middle; the text is what there was until then."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that was said before the question."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class AnswerRequest:
    """One question.

    ``agent``: slug; ``None`` for the default one. ``history``: oldest first. ``top_k``: passages to look at. ``None``
    of ``max_tokens`` and ``temperature`` is what the agent says. ``tools`` and ``tool_choice`` are passed through to a
    model that takes them, in the form of OpenAI's chat completions. ``in_haste``: somebody listens and each second
    counts, so rules alone make a follow-up a question of its own: no model is waited for before the search.
    """

    query: str
    collection: str | None = None
    agent: str | None = None
    filters: Filters = field(default_factory=dict)
    top_k: int | None = None
    history: tuple[Turn, ...] = ()
    max_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    in_haste: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A source that the answer may cite as ``[number]``: one chunk, or neighbouring ones joined.

    ``text`` is ``document.text[start:end]``; ``pk`` is the document's row, ``document_id`` its owner's own id.
    """

    number: int
    chunk_id: int
    chunk_ids: tuple[int, ...]
    pk: int
    document_id: str
    source: str
    title: str
    heading_path: tuple[str, ...]
    page: int | None
    external_url: str | None
    text: str
    start: int
    end: int
    score: float
    """The fused score, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Citation:
    """``[number]`` after a sentence: which part of which document it refers to.

    ``start`` and ``end`` are characters of the document's text, of the sentence quoted or closest to what is said;
    ``quote`` is that text. The marker ``[number]`` begins at the character ``at`` of the answer.
    """

    number: int
    at: int
    chunk_id: int
    pk: int
    document_id: str
    title: str
    page: int | None
    start: int
    end: int
    quote: str


@dataclass(frozen=True, slots=True)
class Sentence:
    """``answer.text[start:end]``, with how well its cited passages support it.

    ``support`` is in [0, 1]; ``None`` for a sentence that claims nothing, such as a heading. ``is_supported`` is false
    below ``RAG_ANSWER_SUPPORT_THRESHOLD``.
    """

    start: int
    end: int
    citations: tuple[int, ...]
    support: float | None
    is_supported: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, in the model's own count where it tells, else estimated."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``query`` is what was asked, ``standalone_query`` what was searched for.

    ``model`` is the one that answered: ``extractive``, or ``ollama/…`` or ``openai/…``. ``fallbacks`` says in one
    sentence each why the models before it in the agent's order did not. ``confidence`` in [0, 1] is compared with the
    threshold below which it abstains. ``removed_citations``: numbers that the model made up.
    """

    request_id: str
    query: str
    standalone_query: str
    collection: str
    agent: str
    model: str
    text: str
    sentences: tuple[Sentence, ...]
    citations: tuple[Citation, ...]
    passages: tuple[Passage, ...]
    finish_reason: FinishReason
    confidence: float
    removed_citations: int
    usage: Usage
    timings_ms: Mapping[str, float]
    fallbacks: tuple[str, ...] = ()
    degraded: tuple[str, ...] = ()
    tool_calls: tuple[Mapping[str, Any], ...] = ()

    @property
    def is_abstention(self) -> bool:
        return self.finish_reason == "abstained"


@dataclass(frozen=True, slots=True)
class RetrievalEvent:
    """What was found, before a word is written. ``passages`` is empty when nothing was."""

    request_id: str
    query: str
    standalone_query: str
    collection: str
    agent: str
    passages: tuple[Passage, ...]
    timings_ms: Mapping[str, float]
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """The next piece of the text."""

    text: str


@dataclass(frozen=True, slots=True)
class CitationEvent:
    """The text so far ends with this citation's ``[number]``. The `DoneEvent` has it with its final range."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """The model asks for tools: a delta of ``tool_calls`` as OpenAI's chat completions stream it."""

    delta: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class DoneEvent:
    answer: Answer


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """It ended in an error: ``problem`` is the RFC 9457 object. ``answer`` is what there was, when there was any."""

    problem: Mapping[str, Any]
    answer: Answer | None = None


AnswerEvent = RetrievalEvent | TokenEvent | CitationEvent | ToolCallEvent | DoneEvent | ErrorEvent

EVENT_NAMES: Mapping[type, str] = {
    RetrievalEvent: "retrieval",
    TokenEvent: "token",
    CitationEvent: "citation",
    ToolCallEvent: "tool_call",
    DoneEvent: "done",
    ErrorEvent: "error",
}
"""By which name an event goes over SSE and websockets."""
