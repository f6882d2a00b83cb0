"""The rankings that one evaluation compares: every row from the same candidates of the same query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from rag.pipeline.bm25 import TermFrequencies, bm25
from rag.pipeline.fusion import min_max
from rag.pipeline.types import Candidates, Float64Array, FusedScores, Int64Array, QueryTerms

RRF_CONSTANT = 60
"""Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion" (2009)."""

CONVEX_SHARE = 0.5
"""Share of the dense score in the convex combination: Bruch et al., "An Analysis of Fusion Functions" (2023)."""

ROWS = ("bm25", "dense", "rrf", "convex", "pipeline")
SIMPLE_FUSIONS = ("rrf", "convex")

Of = TypeVar("Of")


def orders(terms: QueryTerms, candidates: Candidates, fused: FusedScores) -> dict[str, Int64Array]:
    """For each row the positions of the candidates it ranks, best first: int64."""
    frequencies = TermFrequencies.of(candidates.tokens, candidates.offsets)
    lexical = bm25(frequencies.of_terms(terms.unique_ids), frequencies.lengths, terms)
    similarity = 1.0 - candidates.distances.astype(np.float64)
    return {
        "bm25": _by_rank(candidates.lexical_ranks),
        "dense": _by_rank(candidates.dense_ranks),
        "rrf": _best_first(_reciprocal(candidates.lexical_ranks) + _reciprocal(candidates.dense_ranks)),
        "convex": _best_first(CONVEX_SHARE * min_max(similarity) + (1 - CONVEX_SHARE) * min_max(lexical)),
        "pipeline": fused.order,
    }


def in_order(by_row: Mapping[str, Of]) -> dict[str, Of]:
    """The same with the rows in the order of `ROWS`, others after them: the database keeps no order of its own."""
    places = {row: place for place, row in enumerate(ROWS)}
    return {row: by_row[row] for row in sorted(by_row, key=lambda row: (places.get(row, len(places)), row))}


def documents_in_order(order: Int64Array, candidates: Candidates, names: dict[int, str]) -> list[str]:
    """The callers' document ids along ``order``, each at its best chunk's place."""
    return list(dict.fromkeys(names[document] for document in candidates.document_ids[order].tolist()))


def _by_rank(ranks: np.ndarray) -> Int64Array:
    found = np.flatnonzero(ranks)
    return found[np.argsort(ranks[found], kind="stable")]


def _best_first(scores: Float64Array) -> Int64Array:
    return np.argsort(-scores, kind="stable")


def _reciprocal(ranks: np.ndarray) -> Float64Array:
    """1 / (60 + rank), 0 for what the retriever didn't find."""
    return np.where(ranks > 0, 1.0 / (RRF_CONSTANT + ranks), 0.0)
