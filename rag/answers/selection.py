"""Which sentences answer a query: relevance, then maximal marginal relevance against saying the same twice.

MMR: Carbonell and Goldstein, "The use of MMR, diversity-based reranking" (SIGIR 1998):
``argmax λ · relevance(s) − (1 − λ) · max similarity(s, chosen)``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rag.answers.evidence import Evidence, cosines
from rag.answers.sentences import Quotable, Stems, count_words
from rag.pipeline.types import Float32Array, Float64Array


class Shares(NamedTuple):
    """Of a sentence's relevance: its vector's cosine to the query's, the query's words in it, its passage's score."""

    meaning: float
    words: float
    rank: float


SHARES = Shares(0.55, 0.35, 0.10)

FRAGMENT, QUESTION = 0.8, 0.5
"""What the relevance of a piece without an end, such as a heading or code, and of a question is multiplied by: neither
says much."""
SYNTAX = re.compile(r"[=(){}\[\]<>@;|\\]|\"{2,}")
LEAST_SYNTAX, SYNTAX_SHARE = 4, 0.05
"""So many marks of syntax, and so many to a character, make a piece code; prose has a bracket or two in a line."""

LAMBDA = 0.7
DUPLICATE = 0.92
"""Similarity from which a sentence only repeats another."""
MAX_QUOTED = 4
LEAST_SHARE = 0.6
"""Of the best sentence's relevance: what is below adds nothing."""
MAX_EMBEDDED = 32
"""Sentences that are embedded: those with most of the query's words, the first of each passage among them."""
LEAST_WORDS = 4
"""A shorter piece is a heading or a table's cell, which says nothing by itself."""


@dataclass(frozen=True, slots=True)
class Selected:
    """Chosen sentences, best first, and the best relevance: in [0, 1], 0 without any sentence."""

    sentences: tuple[Quotable, ...]
    confidence: float


NOTHING = Selected((), 0.0)


def select(evidence: Evidence, most: int = MAX_QUOTED, shares: Shares = SHARES) -> Selected:
    """The sentences to quote. Ties go to the earlier sentence of the better passage."""
    asked = " ".join(evidence.query.casefold().split())
    usable = [
        i
        for i, one in enumerate(evidence.sentences)
        # Whoever asks the same does not answer it.
        if count_words(one.text) >= LEAST_WORDS and asked not in " ".join(one.text.casefold().split())
    ]
    kept = _shortlist(evidence, usable)
    if not kept:
        return NOTHING
    relevance, vectors = _relevance(evidence, kept, shares)
    chosen = mmr(relevance, _similarity(vectors, [evidence.stems[i] for i in kept]), most)
    return Selected(tuple(evidence.sentences[kept[i]] for i in chosen), float(relevance.max()))


def mmr(relevance: Float64Array, similarity: Float64Array, most: int) -> list[int]:
    """Positions in the order in which they are chosen.

    relevance: float64, shape (n,); similarity: float64, shape (n, n), symmetric, both in [0, 1].
    """
    least = LEAST_SHARE * relevance.max(initial=0.0)
    open_ = [i for i in range(len(relevance)) if relevance[i] >= least]
    chosen: list[int] = []
    while open_ and len(chosen) < most:
        nearest = similarity[np.ix_(open_, chosen)].max(axis=1) if chosen else np.zeros(len(open_))
        gains = np.where(nearest >= DUPLICATE, -np.inf, LAMBDA * relevance[open_] - (1 - LAMBDA) * nearest)
        best = int(np.argmax(gains))
        if not np.isfinite(gains[best]):
            break
        chosen.append(open_.pop(best))
    return chosen


def _shortlist(evidence: Evidence, usable: Sequence[int]) -> list[int]:
    if len(usable) <= MAX_EMBEDDED:
        return list(usable)
    firsts: dict[int, int] = {}
    for i in usable:
        firsts.setdefault(evidence.sentences[i].passage.number, i)
    ranked = sorted(usable, key=lambda i: -evidence.coverage(evidence.stems[i]))
    kept = dict.fromkeys([*list(firsts.values())[: MAX_EMBEDDED // 2], *ranked])
    return sorted(list(kept)[:MAX_EMBEDDED])


def _relevance(evidence: Evidence, kept: Sequence[int], shares: Shares) -> tuple[Float64Array, Float32Array | None]:
    words = np.array([evidence.coverage(evidence.stems[i]) for i in kept])
    rank = np.array([evidence.sentences[i].passage.score for i in kept])
    form = np.array([_form(evidence.sentences[i].text) for i in kept])
    query = evidence.embed_query()
    vectors = None if query is None else evidence.embed([evidence.sentences[i].text for i in kept])
    if query is None or vectors is None:
        return (form * ((shares.meaning + shares.words) * words + shares.rank * rank)).astype(np.float64), None
    meaning = cosines(vectors, query).astype(np.float64)
    return form * (shares.meaning * meaning + shares.words * words + shares.rank * rank), vectors


def _form(text: str) -> float:
    if len(SYNTAX.findall(text)) >= max(LEAST_SYNTAX, SYNTAX_SHARE * len(text)):
        return FRAGMENT
    end = text.rstrip("\"'”’»)] ")[-1:]
    return QUESTION if end in "?？" else 1.0 if end in ".!…。！｡" else FRAGMENT


def _similarity(vectors: Float32Array | None, stems: Sequence[Stems]) -> Float64Array:
    if vectors is not None:
        found: Float64Array = np.clip(vectors @ vectors.T, 0.0, 1.0).astype(np.float64)
        return found
    return np.array([[len(a & b) / max(len(a | b), 1) for b in stems] for a in stems], dtype=np.float64)
