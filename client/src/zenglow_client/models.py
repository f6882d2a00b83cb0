"""What the server answers, as types. A field that a newer server adds is kept, and no fault."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

TextConfiguration = str
FeedbackKind = Literal["judgement", "click", "vote"]
DocumentState = Literal["indexed", "failed", "deleted"]
RunState = Literal["pending", "running", "finished", "cancelled"]


class Answer(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True)


class MatchedBy(Answer):
    """The passage's rank in each retrieval, 1 first; ``None`` where it was not among the candidates."""

    dense: int | None
    lexical: int | None


class FusedParts(Answer):
    ltr: float
    conceptual: float


class Result(Answer):
    """A passage: ``text`` is the document's text from ``start`` to ``end``, in characters.

    ``features``, ``contributions`` and ``fused_parts`` only with ``explain``.
    """

    chunk_id: int
    document_id: str
    source: str
    title: str
    text: str
    external_url: str | None
    heading_path: list[str]
    page: int | None
    start: int
    end: int
    metadata: dict[str, Any]
    matched_by: MatchedBy
    distance: float
    conceptual_score: float
    conceptual_score_norm: float
    ltr_score: float
    ltr_score_norm: float
    fused_score: float
    features: dict[str, float] | None = None
    contributions: dict[str, float] | None = None
    fused_parts: FusedParts | None = None


class Weights(Answer):
    ltr: float
    conceptual: float


class Models(Answer):
    embedder: str
    ltr: str


class Timings(Answer):
    """Milliseconds by stage; 0 for a stage that a cache spared."""

    embed_ms: float
    retrieval_ms: float
    feature_ms: float
    ltr_ms: float
    fusion_ms: float
    pipeline_ms: float


class SearchAnswer(Answer):
    """``request_id`` is what feedback refers to; ``degraded`` names what could not be used."""

    request_id: UUID
    query: str
    top_k: int
    collection: str
    results: list[Result]
    fusion_weights: Weights
    fusion_weights_version: int
    feature_schema_version: int
    models: Models
    ranker: str
    safeguard: str | None
    variant: str
    retrieval_mode: str
    cache: str
    degraded: list[str]
    timings: Timings


class Passage(Answer):
    """A source that the answer may cite as ``[number]``."""

    number: int
    chunk_id: int
    chunk_ids: list[int]
    pk: int
    document_id: str
    source: str
    title: str
    heading_path: list[str]
    page: int | None
    external_url: str | None
    text: str
    start: int
    end: int
    score: float


class Citation(Answer):
    """Which part of which document a ``[number]`` refers to; the marker begins at the answer's character ``at``."""

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


class Sentence(Answer):
    """``text[start:end]`` of the answer, with how well its cited passages support it."""

    start: int
    end: int
    citations: list[int]
    support: float | None
    is_supported: bool


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int


class AnswerText(Answer):
    """A whole answer. ``model`` is the one that answered; ``fallbacks`` says why those before it did not."""

    request_id: UUID
    query: str
    standalone_query: str
    collection: str
    agent: str
    model: str
    text: str
    sentences: list[Sentence]
    citations: list[Citation]
    passages: list[Passage]
    finish_reason: str
    confidence: float
    removed_citations: int
    usage: Usage
    timings_ms: dict[str, float]
    fallbacks: list[str]
    degraded: list[str]
    tool_calls: list[dict[str, Any]]


class Collection(Answer):
    """``documents`` counts those that you may read, by state."""

    slug: str
    title: str = ""
    description: str = ""
    text_configuration: TextConfiguration = ""
    split_identifiers: bool = False
    chunk_tokens: int = 0
    chunk_overlap_tokens: int = 0
    default_access_groups: list[str] = []
    documents: dict[str, int]
    created_at: datetime


class DocumentSummary(Answer):
    collection: str
    document_id: str
    title: str = ""
    source: str = ""
    external_url: str | None = None
    media_type: str = ""
    metadata: Any = None
    access_groups: list[str] = []
    size_bytes: int = 0
    state: str = ""
    failure: str = ""
    chunk_count: int = 0
    created_at: datetime
    updated_at: datetime
    indexed_at: datetime | None = None
    deleted_at: datetime | None = None


class Document(DocumentSummary):
    """With the text that passages are cut from."""

    text: str = ""


class IndexRun(Answer):
    id: UUID
    collection: str
    origin: str
    started_by: str
    state: RunState = "running"
    total: int = 0
    done: int
    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    failed: int = 0
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.state in {"finished", "cancelled"}


class UpdatedCollection(Collection):
    """``index_run`` brings the documents up to new settings, where that is needed."""

    index_run: IndexRun | None


class IndexItem(Answer):
    document_id: str
    state: str = ""
    reason: str = ""


class IndexItemPage(Answer):
    next: str | None
    previous: str | None
    results: list[IndexItem]


class IndexRunDetail(IndexRun):
    documents: IndexItemPage


class Feedback(Answer):
    id: int
    request_id: UUID
    kind: FeedbackKind
    value: int
    chunk_id: int
    document_id: str
    position: int
    weight: float
    variant: str


class Shares(Answer):
    """Weights that sum to 1."""

    ltr: float
    conceptual: float


class DeployedWeights(Answer):
    version: int
    ltr: float
    conceptual: float
    normalized: Shares
    author: str
    created_at: datetime
    scope: str
    by: str
    reason: str
    started_at: datetime
    ended_at: datetime | None


class Tally(Answer):
    """What a look at a source came to, in documents."""

    found: int
    same: int
    gone: int
    unreadable: int
    left_out: dict[str, int]
    incomplete: str


class Change(Answer):
    state: str
    document_id: str
    reason: str


class Preview(Answer):
    """What a dry run found; ``changes`` are the first 200."""

    at: datetime
    error: str
    tally: Tally | None
    changes: list[Change]


class Fault(Answer):
    path: str
    fault: str = ""
    seen_at: datetime | None = None


class Source(Answer):
    """A place that is looked at by a schedule, and how that stands."""

    name: str
    collection: str
    kind: str
    location: str
    options: dict[str, Any]
    secret: str = ""
    access_groups: list[str] = []
    metadata: dict[str, Any]
    interval_minutes: int = 0
    is_paused: bool = False
    outcome: str
    error: str
    failures_in_a_row: int
    tally: Tally | None
    last_run_id: UUID | None
    is_running: bool
    started_at: datetime | None
    finished_at: datetime | None
    next_run_at: datetime | None
    created_by: str
    created_at: datetime


class SourceDetail(Source):
    faults: list[Fault]
    preview: Preview | None


class SourcePage(Answer):
    next: str | None
    previous: str | None
    results: list[Source]


class Check(Answer):
    """A dependency; all but name and state is for keys with the scope ``ops:read``."""

    name: str
    state: str
    critical: bool | None = None
    latency_ms: float | None = None
    since: datetime | None = None
    detail: str = ""


class Ready(Answer):
    """Whether the server can answer; it says so with 503 where it can't."""

    status: str
    checks: list[Check]


class CollectionPage(Answer):
    next: str | None
    previous: str | None
    results: list[Collection]


class DocumentPage(Answer):
    next: str | None
    previous: str | None
    results: list[DocumentSummary]


class WeightsPage(Answer):
    next: str | None = None
    previous: str | None = None
    results: list[DeployedWeights]
