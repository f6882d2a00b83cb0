"""Does a sentence follow from what it cites? Half by its vector, half by its words, against the best sentence cited."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.answers.contracts import Citation, Sentence
from rag.answers.evidence import Evidence, cosines
from rag.answers.sentences import Stems, count_words, spans

LEAST_WORDS = 3
_CLAIMS_NOTHING = re.compile(r"^\s*(?:#{1,6}\s|```|\|[\s:|-]+\|$)|:\s*$")


def sentences_with_support(
    text: str, citations: Sequence[Citation], evidence: Evidence, threshold: float
) -> tuple[Sentence, ...]:
    """The sentences of an answer's ``text``, each with its citations and support.

    A sentence without a citation is not supported by anything, unless it claims nothing. Costs one query of the
    database, and a few forward passes where a sentence isn't quoted word for word.
    """
    plain = _without_markers(text, citations)
    found = list(spans(plain))
    cited = _cited_by_sentence(found, citations)
    said = [plain[start:end] for start, end in found]
    supports = _supports(said, cited, evidence)
    return tuple(
        Sentence(
            start=start,
            end=max([end, *(one.at + len(f"[{one.number}]") for one in own)]),
            citations=tuple(one.number for one in own),
            support=None if support is None else round(support, 3),
            is_supported=support is None or support >= threshold,
        )
        for (start, end), own, support in zip(found, cited, supports, strict=True)
    )


def _without_markers(text: str, citations: Sequence[Citation]) -> str:
    """The text with spaces for markers, so that positions stay."""
    for citation in citations:
        marker = f"[{citation.number}]"
        text = text[: citation.at] + " " * len(marker) + text[citation.at + len(marker) :]
    return text


def _cited_by_sentence(found: Sequence[tuple[int, int]], citations: Sequence[Citation]) -> list[list[Citation]]:
    """By sentence, the citations whose marker stands in or after it, before the next one."""
    cited: list[list[Citation]] = [[] for _ in found]
    for citation in citations:
        before = [i for i, (start, _) in enumerate(found) if start <= citation.at]
        if before:
            cited[before[-1]].append(citation)
    return cited


def _supports(said: Sequence[str], cited: Sequence[Sequence[Citation]], evidence: Evidence) -> list[float | None]:
    supports: list[float | None] = []
    open_: list[tuple[int, list[int]]] = []
    for i, (text, citations) in enumerate(zip(said, cited, strict=True)):
        numbers = {citation.number for citation in citations}
        own = [k for k, sentence in enumerate(evidence.sentences) if sentence.passage.number in numbers]
        folded = " ".join(text.split()).strip("… ")
        if count_words(text) < LEAST_WORDS or _CLAIMS_NOTHING.search(text):
            supports.append(None)
        elif any(folded in " ".join(citation.quote.split()) for citation in citations):
            supports.append(1.0)
        else:
            supports.append(0.0)
            if own:
                open_.append((i, own))
    if open_:
        stems = evidence.stemmer([said[i] for i, _ in open_])
        vectors = evidence.embed([said[i] for i, _ in open_])
        for position, (i, own) in enumerate(open_):
            vector = None if vectors is None else vectors[position]
            supports[i] = _best_support(stems[position], vector, own, evidence)
    return supports


def _best_support(stems: Stems, vector: object, own: Sequence[int], evidence: Evidence) -> float:
    """The best over the cited passages' sentences: (cosine + share of the sentence's stems that are there) / 2."""
    passage_stems = frozenset().union(*(evidence.stems[k] for k in own))
    words = len(stems & passage_stems) / len(stems) if stems else 0.0
    nearest = sorted(own, key=lambda k: -len(stems & evidence.stems[k]))[:6]
    vectors = evidence.embed([evidence.sentences[k].text for k in nearest]) if vector is not None else None
    if vectors is None:
        return words
    return (float(cosines(vectors, vector).max()) + words) / 2  # type: ignore[arg-type]
