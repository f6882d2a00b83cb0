"""A search answer as the page shows it: words marked, scores as bars, links to what can be opened."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.urls import reverse

from rag.ingest import formats
from rag.ingest.types import UnsupportedFormatError
from rag.models import Collection, Document
from rag.pages.explanations import Explanation, explanation_of
from rag.pages.highlight import Segment, matching_words, segments, snippet

MAX_METADATA_ROWS = 20
MAX_METADATA_CHARACTERS = 300

STAGES = (
    ("embed", "Embedding"),
    ("retrieval", "Retrieval"),
    ("feature", "Features"),
    ("ltr", "Learned ranking"),
    ("fusion", "Fusion"),
)

CACHE_LABELS = {"none": "Computed afresh", "feature": "Scores from the cache", "full": "Answer from the cache"}

DEGRADATIONS = {
    "cache": "The cache can't be reached, so that answers take longer.",
    "embed": "The embedder could not be used, so that only words were compared, not meaning.",
    "ltr": "The learned ranker could not be used, so that the simple one ranked these results.",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One part of a bar: where it begins and how long it is, in per cent of the bar, as SVG numbers."""

    name: str
    start: str
    length: str


@dataclass(frozen=True, slots=True)
class Score:
    """The fused score and what it is made of. ``learned`` and ``meaning`` are weight × normalised score."""

    fused: float
    learned: float
    meaning: float
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class StageTiming:
    number: int
    label: str
    duration_ms: float


@dataclass(frozen=True, slots=True)
class ResultView:
    """One result. ``answer`` is its entry in the search response."""

    rank: int
    answer: Mapping[str, Any]
    title: list[Segment]
    trail: list[list[Segment]]
    snippet: list[Segment]
    cut_before: bool
    cut_after: bool
    whole: list[Segment] | None
    is_code: bool
    score: Score
    explanation: Explanation | None
    passage_url: str | None
    original_url: str | None
    external_url: str | None
    metadata: list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class AnswerView:
    """A search response, ready for the template."""

    answer: Mapping[str, Any]
    results: list[ResultView]
    timings: list[StageTiming]
    timing_bars: tuple[Bar, ...]
    cache_label: str
    notices: list[str]


def present(answer: Mapping[str, Any], collection: Collection, *, offset: int) -> AnswerView:
    """The view of a search response. Costs two queries: one for stems, one for the documents."""
    found: Sequence[Mapping[str, Any]] = answer["results"]
    words = matching_words(
        [text for result in found for text in (result["title"], *result["heading_path"], result["text"])],
        answer["query"],
        configuration=collection.text_configuration,
        split_identifiers=collection.split_identifiers,
    )
    documents = {
        document.document_id: document
        for document in collection.documents.filter(document_id__in={result["document_id"] for result in found}).only(
            "id", "document_id", "media_type", "original"
        )
    }
    # What a cache answered took no time in the stages before it: they are left out.
    timings = [
        StageTiming(number, label, duration_ms)
        for number, (name, label) in enumerate(STAGES, start=1)
        if (duration_ms := answer["timings"].get(f"{name}_ms", 0.0)) > 0
    ]
    return AnswerView(
        answer=answer,
        results=[
            _result(result, offset + position, answer["fusion_weights"], words, documents.get(result["document_id"]))
            for position, result in enumerate(found, start=1)
        ],
        timings=timings,
        timing_bars=bars([(f"stage-{timing.number}", timing.duration_ms) for timing in timings]),
        cache_label=CACHE_LABELS.get(answer["cache"], answer["cache"]),
        notices=[DEGRADATIONS.get(part, f"This part is degraded: {part}.") for part in answer["degraded"]],
    )


def bars(parts: Sequence[tuple[str, float]], *, whole: float | None = None) -> tuple[Bar, ...]:
    """Parts of a bar one after the other. ``whole`` is what the full length stands for; default: their sum."""
    total = sum(size for _, size in parts) if whole is None else whole
    drawn = []
    start = 0.0
    for name, size in parts:
        length = 100 * size / total if total > 0 else 0.0
        drawn.append(Bar(name, f"{start:.2f}", f"{length:.2f}"))
        start += length
    return tuple(drawn)


def safe_external_url(url: str | None) -> str | None:
    """``url`` when a page may link to it: a web address, never ``javascript:`` or the like."""
    try:
        parts = urlsplit(url or "")
    except ValueError:
        return None
    return url if parts.scheme.lower() in {"http", "https"} and parts.netloc else None


def metadata_rows(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Metadata as text, long values cut."""
    rows = []
    for name, value in sorted(metadata.items())[:MAX_METADATA_ROWS]:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        rows.append((name, text if len(text) <= MAX_METADATA_CHARACTERS else text[:MAX_METADATA_CHARACTERS] + "…"))
    return rows


def is_code(media_type: str) -> bool:
    """Whether the text of such a file is source code, whose lines and indentation matter."""
    try:
        return formats.format_of(media_type).parser == "code"
    except UnsupportedFormatError:
        return False


def _result(
    result: Mapping[str, Any],
    rank: int,
    weights: Mapping[str, float],
    words: frozenset[str],
    document: Document | None,
) -> ResultView:
    code = document is not None and is_code(document.media_type)
    short = snippet(result["text"], words, is_code=code)
    learned = weights["ltr"] * result["ltr_score_norm"]
    meaning = weights["conceptual"] * result["conceptual_score_norm"]
    return ResultView(
        rank=rank,
        answer=result,
        title=segments(result["title"] or result["source"] or result["document_id"], words),
        # A document's first heading most often repeats its title.
        trail=[segments(heading, words) for heading in result["heading_path"] if heading != result["title"]],
        snippet=segments(short.text, words),
        cut_before=short.cut_before,
        cut_after=short.cut_after,
        whole=segments(result["text"], words) if short.is_cut else None,
        is_code=code,
        score=Score(
            fused=result["fused_score"],
            learned=learned,
            meaning=meaning,
            bars=bars([("learned", learned), ("meaning", meaning)], whole=1.0),
        ),
        explanation=explanation_of(result),
        passage_url=_passage_url(document, result) if document else None,
        original_url=_original_url(document, result) if document else None,
        external_url=safe_external_url(result["external_url"]),
        metadata=metadata_rows(result["metadata"]),
    )


def _passage_url(document: Document, result: Mapping[str, Any]) -> str:
    passage = urlencode({"start": result["start"], "end": result["end"]})
    return f"{reverse('document', args=[document.pk])}?{passage}#passage"


def _original_url(document: Document, result: Mapping[str, Any]) -> str | None:
    if not document.original:
        return None
    url = reverse("document-original", args=[document.pk])
    return f"{url}#page={result['page']}" if document.media_type == formats.PDF and result["page"] else url
