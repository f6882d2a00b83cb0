"""Small candidates, written by hand or drawn at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rag.pipeline.types import Candidates, QueryTerms


def query_terms(
    term_ids: Sequence[int],
    document_frequencies: dict[int, int],
    average_length: float = 4.0,
    chunk_count: int = 10,
) -> QueryTerms:
    return QueryTerms.from_positions(
        np.array(term_ids, dtype=np.int32), document_frequencies, average_length, chunk_count
    )


def candidates(
    tokens: Sequence[Sequence[int]],
    *,
    title_lengths: Sequence[int] | None = None,
    distances: Sequence[float] | None = None,
    dense_ranks: Sequence[int] | None = None,
    lexical_ranks: Sequence[int] | None = None,
    document_ids: Sequence[int] | None = None,
    embeddings: np.ndarray | None = None,
) -> Candidates:
    """Chunk ids are 10, 11, …; embeddings default to the unit vectors of three dimensions in turn."""
    n = len(tokens)
    vectors = np.eye(3, dtype=np.float32)[np.arange(n) % 3] if embeddings is None else embeddings
    return Candidates(
        chunk_ids=np.arange(10, 10 + n, dtype=np.int64),
        document_ids=np.arange(n, dtype=np.int64) if document_ids is None else np.array(document_ids, dtype=np.int64),
        distances=np.linspace(0, 1, n, dtype=np.float32)
        if distances is None
        else np.array(distances, dtype=np.float32),
        dense_ranks=np.arange(1, n + 1, dtype=np.int32)
        if dense_ranks is None
        else np.array(dense_ranks, dtype=np.int32),
        lexical_ranks=np.zeros(n, dtype=np.int32) if lexical_ranks is None else np.array(lexical_ranks, dtype=np.int32),
        tokens=np.array([token for row in tokens for token in row], dtype=np.int32),
        offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        title_lengths=np.array([0] * n if title_lengths is None else title_lengths, dtype=np.int32),
        embeddings=vectors,
        query_embedding=vectors[0] if n else np.zeros(3, dtype=np.float32),
    )


def drawn(seed: int, n: int = 30, vocabulary: int = 60, documents: int | None = None) -> tuple[QueryTerms, Candidates]:
    """A query of five terms and n candidates of 3 to 40 tokens with embeddings of eight dimensions."""
    generator = np.random.default_rng(seed)
    tokens = [(generator.zipf(1.4, generator.integers(3, 40)) % vocabulary).astype(np.int32).tolist() for _ in range(n)]
    embeddings = generator.normal(size=(n, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    ranks = generator.permutation(n) + 1
    terms = generator.integers(0, vocabulary, 5).tolist()
    found = candidates(
        tokens,
        distances=(1 - embeddings @ embeddings[0]).clip(0, 2),
        title_lengths=[min(3, len(row)) for row in tokens],
        dense_ranks=np.where(ranks <= n // 2, ranks, 0),
        lexical_ranks=np.where(ranks[::-1] <= n // 2, ranks[::-1], 0),
        embeddings=embeddings,
        document_ids=generator.integers(0, documents, n) if documents else None,
    )
    return query_terms(terms, {term: 3 for term in terms if term}, 15.0, 500), found
