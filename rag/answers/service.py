"""The one way to an answer: search, gather evidence, have it written, hold it against its sources."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from channels.db import database_sync_to_async
from django.conf import settings

from ops.contracts.metrics import declare_counter, declare_latency
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest, Problem, Unavailable
from ops.contracts.stage import stage
from ops.instrumentation.performance import Unfinished, unfinished
from rag.answers import agents, context, prompt
from rag.answers.agents import AgentView
from rag.answers.backends.base import BackendError, Generation, Piece
from rag.answers.backends.registry import backend_of
from rag.answers.calls import generation_call, note_end
from rag.answers.citations import CitationParser, Cited, Text, locate
from rag.answers.contracts import (
    Answer,
    AnswerEvent,
    AnswerRequest,
    Citation,
    CitationEvent,
    DoneEvent,
    ErrorEvent,
    FinishReason,
    Passage,
    RetrievalEvent,
    TokenEvent,
    ToolCallEvent,
    Usage,
)
from rag.answers.evidence import Evidence, gather
from rag.answers.rewriting import standalone_query
from rag.answers.selection import Selected, select
from rag.answers.sentences import Stemmer, spans
from rag.answers.support import sentences_with_support
from rag.models import Chunk, Collection
from rag.pipeline.embed import Embedder, EmbeddingError
from rag.pipeline.search import SearchRequest, search
from rag.spaces import embedder_for

__all__ = [
    "Draft",
    "Prepared",
    "answer",
    "conclude_stopped",
    "in_thread",
    "prepare",
    "stream_answer",
    "stream_prepared",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")

ANSWERS = declare_counter("zenglow_answers", "Answers, by who wrote them and how they ended.", ("model", "outcome"))
REMOVED = declare_counter("zenglow_answer_citations_removed", "Citations that a model made up.", ("model",))
UNSUPPORTED = declare_counter("zenglow_answer_sentences_unsupported", "Sentences that their sources don't support.")
FIRST_TOKEN = declare_latency("zenglow_answer_first_token_seconds", "From the question to the first word.", ("model",))

THREADS = 8
MAX_OUTPUT_TOKENS = 8_192
MAX_STOPS = 8

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="answer")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question with all that was found for it: what is left is to write."""

    request: AnswerRequest
    request_id: str
    standalone_query: str
    collection: str
    collection_label: str
    agent: AgentView
    passages: tuple[Passage, ...]
    evidence: Evidence
    selected: Selected
    degraded: tuple[str, ...]
    timings_ms: Mapping[str, float]
    started: float
    row: Unfinished
    """Of the performance store, which waits for the time of the generation."""


@dataclass(slots=True)
class Draft:
    """What has been written so far."""

    model: str = ""
    parts: list[str] = field(default_factory=list)
    length: int = 0
    citations: list[Citation] = field(default_factory=list)
    removed: int = 0
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None
    fallbacks: list[str] = field(default_factory=list)
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    fault: str = ""
    first_token_ms: float | None = None
    generation_ms: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def write(self, text: str) -> None:
        self.parts.append(text)
        self.length += len(text)


def prepare(
    request: AnswerRequest,
    principal: Principal,
    *,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
) -> Prepared:
    """Search, and weigh what was found. Blocks. Raises `Problem`, as `rag.pipeline.search.search` does."""
    started = time.perf_counter()
    _check(request)
    agent = agents.agent_of(request.agent)
    slug = agent.collection_for(request.collection, settings.RAG_DEFAULT_COLLECTION)
    condensing = time.perf_counter()
    query = standalone_query(request, agent)
    condense_ms = _ms_since(condensing)
    with unfinished() as row:
        found = search(
            SearchRequest(
                query=query,
                collection=slug,
                top_k=request.top_k or agent.top_k or settings.RAG_ANSWER_PASSAGES,
                filters=request.filters,
            ),
            principal,
            request_id=request_id,
            headers=headers,
            cookies=cookies,
        )
    grounding = time.perf_counter()
    with stage("grounding"):
        ids = [result["chunk_id"] for result in found["results"]]
        pks = dict(Chunk.objects.filter(id__in=ids).values_list("id", "document_id")) if ids else {}
        passages = context.passages_of(found["results"], pks)
        collection = Collection.objects.only("title", "text_configuration", "split_identifiers").get(slug=slug)
        stemmer = Stemmer(collection.text_configuration, collection.split_identifiers)
        evidence = gather(query, passages, stemmer, _embedder(slug), asked=request.query)
        selected = select(evidence)
    timings = {name: value for name, value in found["timings"].items() if value}
    timings["grounding_ms"] = _ms_since(grounding)
    if request.history:
        timings["condense_ms"] = condense_ms
    return Prepared(
        request=request,
        request_id=request_id,
        standalone_query=query,
        collection=slug,
        collection_label=collection.title or slug,
        agent=agent,
        passages=passages,
        evidence=evidence,
        selected=selected,
        degraded=tuple(found["degraded"]),
        timings_ms=timings,
        started=started,
        row=row,
    )


async def stream_answer(
    request: AnswerRequest, principal: Principal, *, request_id: str
) -> AsyncGenerator[AnswerEvent, None]:
    """The answer as it comes to be. Closing the iterator cancels the upstream.

    Raises `Problem` before the first event, for what is wrong with the question; what fails later is an `ErrorEvent`.
    """
    prepared = await in_thread(lambda: prepare(request, principal, request_id=request_id))
    async with aclosing(stream_prepared(prepared)) as events:
        async for event in events:
            yield event


async def stream_prepared(prepared: Prepared, draft: Draft | None = None) -> AsyncGenerator[AnswerEvent, None]:
    """As `stream_answer`, of a question that was prepared before; ``draft`` collects what is written.

    Whoever closes the iterator early has `conclude_stopped` make an answer of the draft.
    """
    yield RetrievalEvent(
        request_id=prepared.request_id,
        query=prepared.request.query,
        standalone_query=prepared.standalone_query,
        collection=prepared.collection,
        agent=prepared.agent.slug,
        passages=prepared.passages,
        timings_ms=prepared.timings_ms,
        degraded=prepared.degraded,
    )
    draft = draft or Draft()
    async with aclosing(_write(prepared, draft)) as events:
        async for event in events:
            yield event
    result = await in_thread(lambda: _conclude(prepared, draft))
    if draft.fault:
        yield ErrorEvent(_problem(draft).as_dict(request_id=prepared.request_id, instance="/rag/query"), result)
    else:
        yield DoneEvent(result)


async def conclude_stopped(prepared: Prepared, draft: Draft) -> Answer:
    """The answer as far as it got, when its asker had enough."""
    draft.finish_reason = "stopped"
    return await in_thread(lambda: _conclude(prepared, draft))


def answer(
    request: AnswerRequest,
    principal: Principal,
    *,
    request_id: str,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
) -> Answer:
    """The whole answer. Blocks, and must not be called on an event loop. Raises `Problem`."""
    prepared = prepare(request, principal, request_id=request_id, headers=headers, cookies=cookies)
    draft = Draft()

    async def drain() -> None:
        async with aclosing(_write(prepared, draft)) as events:
            async for _ in events:
                pass

    asyncio.run(drain())
    if draft.fault and not draft.length:
        raise _problem(draft)
    return _conclude(prepared, draft)


async def _write(prepared: Prepared, draft: Draft) -> AsyncGenerator[AnswerEvent, None]:
    """Have the answer written by the first of the agent's models that does; ``draft`` collects it."""
    if _should_abstain(prepared):
        draft.model, draft.finish_reason = prepared.agent.models[-1], "abstained"
        for event in _abstain(prepared, draft):
            yield event
        return
    started = time.perf_counter()
    with prepared.row.finishing("generation"), stage("generation"):
        for position, model in enumerate(prepared.agent.models):
            draft.model = model
            try:
                async with aclosing(_write_by(model, prepared, draft)) as events:
                    async for event in events:
                        yield event
                break
            except BackendError as error:
                if draft.length or draft.tool_calls or position + 1 == len(prepared.agent.models):
                    draft.fault, draft.finish_reason = str(error), "error"
                    break
                draft.fallbacks.append(f"{model}: {error}")
                logger.warning("%s does not answer, the next in the agent's order is asked: %s", model, error)
    draft.generation_ms = _ms_since(started)


async def _write_by(model: str, prepared: Prepared, draft: Draft) -> AsyncGenerator[AnswerEvent, None]:
    """What one model writes, its citations checked. Raises `BackendError`."""
    backend = backend_of(model)
    generation = await _generation(model, prepared)
    parser = CitationParser(frozenset(passage.number for passage in prepared.passages))
    with generation_call(model, "generate", backend, generation) as call:
        try:
            async with aclosing(backend.stream(generation)) as pieces:
                async for piece in pieces:
                    if piece.finish_reason is not None:
                        draft.finish_reason = piece.finish_reason
                        draft.usage = piece.usage
                    note_end(call, piece)
                    for event in _events_of(piece, parser, prepared, draft):
                        yield event
            for found in parser.finish():
                for event in _note(found, prepared, draft):
                    yield event
        finally:
            draft.removed += parser.removed


def _events_of(piece: Piece, parser: CitationParser, prepared: Prepared, draft: Draft) -> list[AnswerEvent]:
    if piece.tool_calls:
        draft.tool_calls += piece.tool_calls
        return [ToolCallEvent(piece.tool_calls)]
    if piece.cites is not None:
        return _note(Cited(piece.cites), prepared, draft)
    if piece.is_literal:
        return _note(Text(piece.text), prepared, draft)
    return [event for found in parser.feed(piece.text) for event in _note(found, prepared, draft)]


def _note(found: Text | Cited, prepared: Prepared, draft: Draft) -> list[AnswerEvent]:
    """Add to the draft, and say so."""
    if draft.first_token_ms is None:
        draft.first_token_ms = _ms_since(prepared.started)
        FIRST_TOKEN.labels(draft.model).observe(draft.first_token_ms / 1000)
    if isinstance(found, Text):
        draft.write(found.text)
        return [TokenEvent(found.text)]
    at = draft.length
    passage = next(one for one in prepared.passages if one.number == found.number)
    citation = locate(_last_sentence(draft), passage, found.number, at)
    draft.citations.append(citation)
    draft.write(f"[{found.number}]")
    return [TokenEvent(f"[{found.number}]"), CitationEvent(citation)]


def _last_sentence(draft: Draft) -> str:
    """What was said last, before a marker: without the markers before it."""
    text = draft.text
    for citation in reversed(draft.citations):
        end = citation.at + len(f"[{citation.number}]")
        text = text[: citation.at] + " " * (end - citation.at) + text[end:]
    found = list(spans(text[-1500:]))
    start, end = found[-1] if found else (0, 0)
    return text[-1500:][start:end]


def _should_abstain(prepared: Prepared) -> bool:
    if not prepared.passages:
        return True
    return prepared.agent.abstains and prepared.selected.confidence < settings.RAG_ANSWER_THRESHOLD


def _abstain(prepared: Prepared, draft: Draft) -> list[AnswerEvent]:
    events = _note(Text(f"I found nothing in “{prepared.collection_label}” that answers this."), prepared, draft)
    if prepared.passages:
        first = prepared.passages[0]
        events += _note(Text(f" The closest passage is from “{first.title}” "), prepared, draft)
        events += _note(Cited(first.number), prepared, draft)
        events += _note(Text("."), prepared, draft)
    draft.usage = Usage(0, 0)
    return events


async def _generation(model: str, prepared: Prepared) -> Generation:
    agent, request = prepared.agent, prepared.request
    max_tokens = request.max_tokens or agent.max_tokens
    backend = backend_of(model)
    name = model.partition("/")[2]
    # A server may be able to hold more than anybody wants to wait for.
    window = min(await backend.window(name) or agent.context_tokens, agent.context_tokens)
    fixed = prompt.messages_for(agent.persona, (), request.history, request.query)
    used = sum(await backend.count_tokens(name, [message.content for message in fixed]))
    counts = await backend.count_tokens(name, [passage.text for passage in prepared.passages])
    by_text = {passage.text: count for passage, count in zip(prepared.passages, counts, strict=True)}
    budget = max(window - used - max_tokens - _FRAME_TOKENS * len(prepared.passages), 1)
    fitting = context.fit(prepared.passages, budget, lambda texts: [by_text[text] for text in texts])
    return Generation(
        model=name,
        messages=prompt.messages_for(agent.persona, fitting, request.history, request.query),
        evidence=prepared.evidence,
        selected=prepared.selected,
        max_tokens=max_tokens,
        temperature=agent.temperature if request.temperature is None else request.temperature,
        stop=request.stop,
        tools=request.tools,
        tool_choice=request.tool_choice,
        window_tokens=window,
    )


_FRAME_TOKENS = 40
"""What the markers around a passage take."""


def _conclude(prepared: Prepared, draft: Draft) -> Answer:
    """The whole answer, each sentence held against what it cites. Blocks."""
    text = draft.text
    started = time.perf_counter()
    with stage("support"):
        sentences = (
            ()
            if draft.finish_reason == "abstained"
            else sentences_with_support(text, draft.citations, prepared.evidence, settings.RAG_ANSWER_SUPPORT_THRESHOLD)
        )
    ANSWERS.labels(draft.model, draft.finish_reason).inc()
    if draft.removed:
        REMOVED.labels(draft.model).inc(draft.removed)
    UNSUPPORTED.inc(sum(1 for sentence in sentences if not sentence.is_supported))
    timings = dict(prepared.timings_ms)
    if draft.first_token_ms is not None:
        timings["first_token_ms"] = draft.first_token_ms
    timings["generation_ms"] = draft.generation_ms
    timings["support_ms"] = _ms_since(started)
    timings["total_ms"] = _ms_since(prepared.started)
    return Answer(
        request_id=prepared.request_id,
        query=prepared.request.query,
        standalone_query=prepared.standalone_query,
        collection=prepared.collection,
        agent=prepared.agent.slug,
        model=draft.model,
        text=text,
        sentences=sentences,
        citations=tuple(draft.citations),
        passages=prepared.passages,
        finish_reason=draft.finish_reason,
        confidence=round(prepared.selected.confidence, 4),
        removed_citations=draft.removed,
        usage=draft.usage or Usage(0, max(draft.length // 4, 0)),
        timings_ms=timings,
        fallbacks=tuple(draft.fallbacks),
        degraded=prepared.degraded,
        tool_calls=tuple(draft.tool_calls),
    )


def _problem(draft: Draft) -> Problem:
    what = "The answer stopped in the middle: " if draft.length else ""
    return Unavailable(f"{what}{draft.fault} Try again, or choose another agent.", retry_after_s=5, model=draft.model)


def _check(request: AnswerRequest) -> None:
    errors: dict[str, str] = {}
    if request.max_tokens is not None and not 1 <= request.max_tokens <= MAX_OUTPUT_TOKENS:
        errors["max_tokens"] = f"From 1 to {MAX_OUTPUT_TOKENS}, not {request.max_tokens}."
    if request.temperature is not None and not 0 <= request.temperature <= 2:
        errors["temperature"] = f"From 0 to 2, not {request.temperature}."
    if len(request.stop) > MAX_STOPS or not all(request.stop):
        errors["stop"] = f"At most {MAX_STOPS} strings, none of them empty."
    if errors:
        raise InvalidRequest(" ".join(f"{name}: {fault}" for name, fault in errors.items()), errors=errors)


def _embedder(slug: str) -> Embedder | None:
    try:
        return embedder_for(slug)
    except (EmbeddingError, Unavailable) as error:
        logger.warning("Sentences are compared by their words alone: %s", error)
        return None


async def in_thread(work: Callable[[], T]) -> T:
    """``work`` on one of a few threads, with its database connection given back."""
    run = database_sync_to_async(work, thread_sensitive=False, executor=_threads)
    result: T = await run()
    return result


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)
