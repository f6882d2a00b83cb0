"""The postings of a collection whose tokens are held in memory: BM25 without asking the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from rag.pipeline.best import best
from rag.pipeline.bm25 import BM25_B, BM25_K1, TermFrequencies, look_up, ranges, starts
from rag.pipeline.types import Float64Array, Int32Array, Int64Array


@dataclass(frozen=True, slots=True)
class InvertedIndex:
    """Which chunks hold a term, and how often. Chunks are named by their places.

    term_ids: int32, shape (terms,), ascending; those of `term_ids[i]` stand in ``begins[i]:begins[i + 1]`` of
    rows: int32, places of chunks, ascending, and frequencies: int32, both of shape (postings,).
    lengths: int32, shape (n,), non-gap tokens of each chunk; average_length: their mean, 0 where there is no chunk.
    """

    term_ids: Int32Array
    begins: Int64Array
    rows: Int32Array
    frequencies: Int32Array
    lengths: Int32Array
    average_length: float

    @classmethod
    def of(cls, tokens: Int32Array, offsets: Int64Array) -> Self:
        """Of chunks of which chunk i's tokens are ``tokens[offsets[i]:offsets[i + 1]]``."""
        held = TermFrequencies.of(tokens, offsets)
        begins = starts(held.terms)
        return cls(
            term_ids=held.terms[begins].astype(np.int32),
            begins=np.append(begins, len(held.terms)),
            rows=held.rows.astype(np.int32),
            frequencies=held.counts.astype(np.int32),
            lengths=held.lengths.astype(np.int32),
            average_length=float(held.lengths.mean()) if len(held.lengths) else 0.0,
        )

    def document_frequencies(self, term_ids: np.typing.NDArray[np.integer]) -> Int64Array:
        """How many chunks hold each of the terms, int64."""
        begins, ends = self._ranges(term_ids)
        return ends - begins

    def rank(self, term_ids: np.typing.NDArray[np.integer], weights: Float64Array, depth: int) -> Int64Array:
        """Places of the ``depth`` chunks with the highest BM25, int64, best first; of equals the first comes first.

        Σ weight · f · (k1 + 1) / (f + k1 · (1 − b + b · length / average length)), over chunks that hold a term.
        """
        begins, ends = self._ranges(term_ids)
        sizes = ends - begins
        places = ranges(begins, sizes)
        rows, frequencies = self.rows[places], self.frequencies[places]
        norms = BM25_K1 * (1 - BM25_B + BM25_B * self.lengths[rows] / (self.average_length or 1.0))
        impacts = np.repeat(weights * (BM25_K1 + 1), sizes) * frequencies / (frequencies + norms)
        scores = np.bincount(rows, weights=impacts, minlength=len(self.lengths)).astype(np.float64, copy=False)
        found = np.flatnonzero(scores)
        return found[best(scores[found], depth)]

    @property
    def size_bytes(self) -> int:
        return sum(one.nbytes for one in (self.term_ids, self.begins, self.rows, self.frequencies, self.lengths))

    def _ranges(self, term_ids: np.typing.NDArray[np.integer]) -> tuple[Int64Array, Int64Array]:
        """Where the postings of each term begin and end; of a term that no chunk holds, both at the same place."""
        position, found = look_up(term_ids, self.term_ids)
        begins = self.begins[position]
        return begins, np.where(found, self.begins[np.minimum(position + 1, len(self.begins) - 1)], begins)
