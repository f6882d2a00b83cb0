"""What the stages of the query pipeline hand to each other: frozen rows of arrays, no behaviour to remember.

Every array that has one entry per candidate is aligned with `Candidates.chunk_ids`, which ascends: sorting by
position is sorting by chunk id, so ties are broken the same way everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]

GAP = 0
"""Token id where a stop word stood: it keeps the distance between its neighbours and counts nowhere else."""

UNKNOWN = -1
"""Token id, in queries only, of a term that no chunk of the collection holds."""


@dataclass(frozen=True, slots=True)
class QueryTerms:
    """The query as the collection's text configuration reads it, with the statistics of the collection.

    term_ids: int32, shape (positions,), in the query's order; `GAP` for a stop word, `UNKNOWN` for a term
        that the collection does not hold. May be empty.
    unique_ids: int32, shape (terms,), the distinct known term ids, ascending.
    counts: float32, shape (terms,), how often each of `unique_ids` occurs in the query (at least 1).
    document_frequencies: int64, shape (terms,), chunks of the collection that hold each of `unique_ids`.
    average_length: mean number of non-gap tokens of the collection's chunks; 0 for an empty collection.
    chunk_count: chunks of the collection.
    """

    term_ids: Int32Array
    unique_ids: Int32Array
    counts: Float32Array
    document_frequencies: Int64Array
    average_length: float
    chunk_count: int

    @classmethod
    def from_positions(
        cls,
        term_ids: NDArray[np.integer],
        document_frequencies: dict[int, int],
        average_length: float,
        chunk_count: int,
    ) -> Self:
        """Count the terms of `term_ids`; `document_frequencies` must name each known one (else KeyError)."""
        positions = np.ascontiguousarray(term_ids, dtype=np.int32)
        unique_ids, counts = np.unique(positions[positions > GAP], return_counts=True)
        return cls(
            term_ids=positions,
            unique_ids=unique_ids.astype(np.int32),
            counts=counts.astype(np.float32),
            document_frequencies=np.array([document_frequencies[int(t)] for t in unique_ids], dtype=np.int64),
            average_length=float(average_length),
            chunk_count=int(chunk_count),
        )


@dataclass(frozen=True, slots=True)
class Candidates:
    """The union of what the retrievers found, one entry per chunk.

    chunk_ids: int64, shape (n,), strictly ascending.
    document_ids: int64, shape (n,): the chunks of one document share its (database) id.
    distances: float32, shape (n,), cosine distance to the query in [0, 2], for lexical-only candidates too.
    dense_ranks, lexical_ranks: int32, shape (n,), 1 = best; 0 = not found by that retriever.
    tokens: int32, all chunks' tokens one after the other (`GAP` for stop words).
    offsets: int64, shape (n + 1,): chunk i's tokens are `tokens[offsets[i]:offsets[i + 1]]`.
    title_lengths: int32, shape (n,): how many of a chunk's first tokens are its title and headings.
    embeddings: float32, shape (n, dimensions), unit length; `query_embedding`: float32, shape (dimensions,),
        unit length. A candidate without an embedding in the space has a row of zeros and distance 1.
    """

    chunk_ids: Int64Array
    document_ids: Int64Array
    distances: Float32Array
    dense_ranks: Int32Array
    lexical_ranks: Int32Array
    tokens: Int32Array
    offsets: Int64Array
    title_lengths: Int32Array
    embeddings: Float32Array
    query_embedding: Float32Array

    def __len__(self) -> int:
        return len(self.chunk_ids)


@dataclass(frozen=True, slots=True)
class FeatureMatrix:
    """values: float32, shape (n, features), columns as the schema of that version orders them; no NaN."""

    schema_version: int
    values: Float32Array


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """Shares of the learned and the conceptual score; scaled on creation to sum to 1.

    ValueError unless both are finite, at least 0 and not both 0.
    """

    ltr: float
    conceptual: float

    def __post_init__(self) -> None:
        largest = max(self.ltr, self.conceptual)
        if not (np.isfinite(largest) and largest > 0 and min(self.ltr, self.conceptual) >= 0):
            raise ValueError(f"fusion weights must be finite, at least 0 and not both 0: {self.ltr}, {self.conceptual}")
        # Divided by the larger first, so that no sum overflows.
        ltr, conceptual = self.ltr / largest, self.conceptual / largest
        object.__setattr__(self, "ltr", ltr / (ltr + conceptual))
        object.__setattr__(self, "conceptual", conceptual / (ltr + conceptual))


@dataclass(frozen=True, slots=True)
class FusedScores:
    """The final scores, all float64 and shape (n,) except `order`; the norms and `fused` lie in [0, 1].

    order: int64, shape (n,): positions from best to worst, ties by chunk id ascending.
    """

    conceptual: Float64Array
    conceptual_norm: Float64Array
    ltr: Float64Array
    ltr_norm: Float64Array
    fused: Float64Array
    order: Int64Array
    weights: FusionWeights
