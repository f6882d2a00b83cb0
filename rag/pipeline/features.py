"""What the rankers see of each candidate: one declared table, and one function for training and serving alike.

`norm` in a name means scaled to [0, 1] over the query's candidates, so that it means the same in every collection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rag.pipeline.bm25 import (
    BM25_K1,
    TermFrequencies,
    bm25,
    dirichlet,
    inverse_document_frequency,
    look_up,
    occurrences,
)
from rag.pipeline.fusion import min_max
from rag.pipeline.memory import NOTHING, Memory, remembered
from rag.pipeline.neighbours import (
    Documents,
    embedding_similarity,
    lexical_similarity,
    likeness_to_best,
    neighbour_weights,
)
from rag.pipeline.types import GAP, Candidates, FeatureMatrix, Float64Array, QueryTerms

SCHEMA_VERSION = 2

RANK_CONSTANT = 60
"""Cormack, Clarke and Büttcher, Reciprocal Rank Fusion (2009)."""

BIGRAM_WINDOW = 3
"""Most positions between two terms that still count as next to each other: stop words between them are common."""

PEAKEDNESS = 5.0
FEEDBACK_BEST = 10


@dataclass(frozen=True, slots=True)
class Feature:
    """One column: `low` and `high` bound its values."""

    name: str
    low: float
    high: float
    meaning: str
    dtype: str = "float32"


SCHEMA: tuple[Feature, ...] = (
    Feature("cosine", -1, 1, "1 − cosine distance of the passage to the query"),
    Feature("cosine_norm", 0, 1, "cosine, scaled over the candidates"),
    Feature("dense_rank", 0, 1, "60 / (60 + rank) among the dense candidates, 0 if not one"),
    Feature("bm25", 0, 1, "BM25 as a share of what the query could reach at most"),
    Feature("bm25_norm", 0, 1, "BM25, scaled over the candidates"),
    Feature("lexical_rank", 0, 1, "60 / (60 + rank) among the BM25 candidates, 0 if not one"),
    Feature("likelihood_norm", 0, 1, "Dirichlet-smoothed query likelihood, scaled over the candidates"),
    Feature("reciprocal_rank_fusion", 0, 1, "mean of dense_rank and lexical_rank"),
    Feature("convex", 0, 1, "half cosine_norm, half bm25_norm: the simple hybrid"),
    Feature("peaked_norm", 0, 1, "exp(5 · mean of cosine_norm and both lexical norms), scaled over the candidates"),
    Feature("neighbours", 0, 1, "mean peaked_norm of the best passages of the 10 most similar other documents"),
    Feature("likeness_norm", 0, 1, "mean word similarity to the 10 best other documents, scaled over the candidates"),
    Feature("body_coverage", 0, 1, "idf-weighted share of the query's terms that the body holds"),
    Feature("title_coverage", 0, 1, "idf-weighted share of the query's terms that title and headings hold"),
    Feature("bigram_overlap", 0, 1, "share of the query's pairs of adjacent terms that the passage holds as such"),
    Feature("length", -16, 16, "ln of the passage's length over the collection's average"),
    Feature("query_length", 0, 16, "ln(1 + terms of the query)"),
    Feature("agreement", 0, 1, "share of the candidates found by both retrievers"),
    Feature("peak", 0, 1, "mean peaked_norm of the ten best candidates: low when one stands out"),
    Feature("memory", 0, 1, "similarity⁴ of the likest judged query to which the document was relevant, else 0"),
)

FEATURES: tuple[str, ...] = tuple(feature.name for feature in SCHEMA)
_LOW = np.array([feature.low for feature in SCHEMA], dtype=np.float32)
_HIGH = np.array([feature.high for feature in SCHEMA], dtype=np.float32)
COLUMN: dict[str, int] = {name: column for column, name in enumerate(FEATURES)}


def extract(query: QueryTerms, candidates: Candidates, memory: Memory = NOTHING) -> FeatureMatrix:
    """The features of each candidate, shape (n, len(FEATURES)); a query without known terms has lexical zeros."""
    n = len(candidates)
    values = np.zeros((n, len(FEATURES)), dtype=np.float32)
    if n:
        columns = _columns(query, candidates) | {"memory": remembered(memory, candidates.document_ids)}
        for column, name in enumerate(FEATURES):
            values[:, column] = columns[name]
        # Rounding can leave a sum of shares just above 1.
        np.clip(values, _LOW, _HIGH, out=values)
    return FeatureMatrix(SCHEMA_VERSION, values)


def _columns(query: QueryTerms, candidates: Candidates) -> dict[str, Float64Array | float]:
    n = len(candidates)
    terms = TermFrequencies.of(candidates.tokens, candidates.offsets)
    frequencies = terms.of_terms(query.unique_ids)
    idf = inverse_document_frequency(query.document_frequencies, query.chunk_count)
    body_coverage, title_coverage, bigram_overlap = _matches(query, candidates, idf)

    cosine = 1.0 - candidates.distances.astype(np.float64)
    bm25_score = bm25(frequencies, terms.lengths, query)
    most = (BM25_K1 + 1) * float(query.counts @ idf)
    cosine_norm, bm25_norm = min_max(cosine), min_max(bm25_score)
    likelihood_norm = min_max(dirichlet(frequencies, terms.lengths, query))
    peaked_norm = min_max(np.exp(PEAKEDNESS * (0.5 * cosine_norm + 0.25 * bm25_norm + 0.25 * likelihood_norm)))
    documents = Documents.of(candidates.document_ids)
    by_words = documents.nearest(lexical_similarity(terms))
    by_embedding = documents.nearest(embedding_similarity(candidates.embeddings))
    neighbours = neighbour_weights(by_words, by_embedding) @ documents.best(peaked_norm)
    likeness = likeness_to_best(by_words, documents.best((peaked_norm + neighbours) / 2), documents, FEEDBACK_BEST)
    dense_rank, lexical_rank = _reciprocal(candidates.dense_ranks), _reciprocal(candidates.lexical_ranks)
    return {
        "cosine": cosine,
        "cosine_norm": cosine_norm,
        "dense_rank": dense_rank,
        "bm25": bm25_score / most if most else bm25_score,
        "bm25_norm": bm25_norm,
        "lexical_rank": lexical_rank,
        "likelihood_norm": likelihood_norm,
        "reciprocal_rank_fusion": (dense_rank + lexical_rank) / 2,
        "convex": (cosine_norm + bm25_norm) / 2,
        "peaked_norm": peaked_norm,
        "neighbours": neighbours,
        # Rounded, as scaling would blow single precision's noise up to the whole range where all are equal.
        "likeness_norm": min_max(likeness.round(5)),
        "body_coverage": body_coverage,
        "title_coverage": title_coverage,
        "bigram_overlap": bigram_overlap,
        "length": np.log(np.maximum(terms.lengths, 1) / max(query.average_length, 1)),
        "query_length": float(np.log1p(np.count_nonzero(query.term_ids != GAP))),
        "agreement": np.count_nonzero(candidates.dense_ranks * candidates.lexical_ranks) / n,
        "peak": float(np.sort(peaked_norm)[-10:].mean()),
    }


def _reciprocal(ranks: np.typing.NDArray[np.integer]) -> Float64Array:
    return np.where(ranks > 0, RANK_CONSTANT / (RANK_CONSTANT + ranks), 0.0)


def _matches(
    query: QueryTerms, candidates: Candidates, idf: Float64Array
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Coverage of body and title, and bigram overlap, each float64, shape (n,)."""
    n, m = len(candidates), len(query.unique_ids)
    if m == 0:
        return np.zeros(n), np.zeros(n), np.zeros(n)
    places, term = occurrences(candidates.tokens, query.unique_ids)
    row = np.searchsorted(candidates.offsets, places, side="right") - 1
    in_title = places - candidates.offsets[row] < candidates.title_lengths[row]
    shares = idf / idf.sum()

    held = np.zeros((2, n, m), dtype=bool)
    held[in_title.astype(np.intp), row, term] = True

    bigrams = np.zeros(n)
    wanted = _adjacent_pairs(*_known(query))
    if len(wanted):
        adjacent = (np.diff(places) <= BIGRAM_WINDOW) & (row[1:] == row[:-1])
        pair, is_wanted = look_up((term[:-1] * m + term[1:])[adjacent], wanted)
        holds = np.zeros((n, len(wanted)), dtype=bool)
        holds[row[:-1][adjacent][is_wanted], pair[is_wanted]] = True
        bigrams = holds.mean(axis=1)
    return held[0] @ shares, held[1] @ shares, bigrams


def _known(query: QueryTerms) -> tuple[np.typing.NDArray[np.int64], np.typing.NDArray[np.int64], int]:
    """Positions of the query's known terms, their places in `unique_ids`, and how many of those there are."""
    positions = np.flatnonzero(query.term_ids > GAP)
    return positions, np.searchsorted(query.unique_ids, query.term_ids[positions]), len(query.unique_ids)


def _adjacent_pairs(
    positions: np.typing.NDArray[np.int64], terms: np.typing.NDArray[np.int64], count: int
) -> np.typing.NDArray[np.int64]:
    """Ascending codes `first · count + second` of the terms that follow each other within the window."""
    near = (np.diff(positions) <= BIGRAM_WINDOW) & (terms[1:] != terms[:-1])
    return np.unique((terms[:-1] * count + terms[1:])[near])
