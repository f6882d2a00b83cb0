"""What the candidates say about each other: a passage is likely relevant when passages like it are.

That is the cluster hypothesis, used as in Diaz, Regularizing Ad Hoc Retrieval Scores (2005): each score is drawn
towards those of the nearest candidates. Constants were chosen on the public test collections (see the model reports).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rag.pipeline.bm25 import TermFrequencies, inverse_document_frequency, lengths_between, ranges, run_lengths, starts
from rag.pipeline.types import Float32Array, Float64Array, Int64Array

NEIGHBOURS = 10
LEXICAL_SHARE = 0.7
COMMON = 8
"""Candidates that hold a common term. Of 200 candidates' terms a fifth are: the rest are cheaper pair by pair."""
EPSILON = np.float32(1e-6)


def lexical_similarity(terms: TermFrequencies) -> Float32Array:
    """Cosines of the candidates' ln(1 + tf) · idf vectors, float32, shape (n, n), zero on the diagonal.

    The idf is over the candidates, not the collection: what tells them apart is what matters here, and it needs no
    further look-up.
    """
    n = len(terms.lengths)
    local_frequencies = terms.local_document_frequencies
    # Frequencies and counts are small numbers that come up again and again: their logarithms are looked up.
    idf = inverse_document_frequency(np.arange(n + 1), n)
    weights = np.log1p(np.arange(terms.counts.max(initial=0) + 1))[terms.counts] * idf[local_frequencies]
    norms = np.sqrt(np.bincount(terms.rows, weights=weights**2, minlength=n))
    weights /= np.maximum(norms, EPSILON)[terms.rows]
    # A term of one candidate alone adds to that candidate's norm and to no product.
    rare = np.flatnonzero((local_frequencies > 1) & (local_frequencies < COMMON))
    common = np.flatnonzero(local_frequencies >= COMMON)
    similarity = _common_products(terms.terms[common], terms.rows[common], weights[common], n)
    similarity += _rare_products(terms.terms[rare], terms.rows[rare], weights[rare], n)
    np.fill_diagonal(similarity, 0)
    return similarity


def _common_products(terms: Int64Array, rows: Int64Array, weights: Float64Array, n: int) -> Float32Array:
    """What terms of many candidates add to the cosines: a product of matrices, float32, shape (n, n)."""
    columns = np.cumsum(np.diff(terms, prepend=-1) != 0) - 1
    vectors = np.zeros((n, columns[-1] + 1 if len(columns) else 0), dtype=np.float32)
    vectors[rows, columns] = weights
    return vectors @ vectors.T


def _rare_products(terms: Int64Array, rows: Int64Array, weights: Float64Array, n: int) -> Float32Array:
    """What terms of few candidates add: pair by pair, which for these is far less work; float32, shape (n, n).

    Zero on the diagonal.
    """
    sizes = run_lengths(terms)
    # Each triple meets those of its term that follow it, which lie next to it: the rows of a term ascend.
    partners = np.repeat(np.cumsum(sizes), sizes) - np.arange(1, len(terms) + 1)
    left = np.repeat(np.arange(len(terms)), partners)
    right = np.arange(1, len(left) + 1) - np.repeat(np.cumsum(partners) - partners - np.arange(len(terms)), partners)
    pairs = np.bincount(rows[left] * n + rows[right], weights=weights[left] * weights[right], minlength=n * n)
    upper = pairs.reshape(n, n).astype(np.float32)
    return upper + upper.T


def embedding_similarity(embeddings: Float32Array) -> Float32Array:
    """Cosines of the embeddings less their mean, negative ones as 0, float32, (n, n), zero on the diagonal.

    All candidates resemble the query and so each other; taking off what they share leaves what sets them apart.
    """
    if len(embeddings) == 0:
        return np.zeros((0, 0), dtype=np.float32)
    centred = embeddings - embeddings.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), EPSILON)
    return np.maximum(_products(centred), 0)


@dataclass(frozen=True)
class Documents:
    """Which candidates belong together: the chunks of a document are no neighbours of each other.

    Their likeness (they overlap, and share the title) would only repeat what each of them says.

    codes: int64, shape (n,): each candidate's document as 0 … count − 1.
    """

    codes: Int64Array
    count: int

    @classmethod
    def of(cls, document_ids: Int64Array) -> Documents:
        unique, codes = np.unique(document_ids, return_inverse=True)
        return cls(codes, len(unique))

    def best(self, scores: Float64Array) -> Float64Array:
        """Highest score of each document's candidates, float64, shape (count,)."""
        best: Float64Array = np.maximum.reduceat(scores[self._order], self._starts) if self.count else scores
        return best

    def nearest(self, similarity: Float32Array) -> Float32Array:
        """Each candidate's similarity to the likest candidate of each document, 0 for its own: (n, count).

        `similarity` is symmetric, shape (n, n), zero on the diagonal. It is itself what is returned where each
        candidate is a document of its own, in the order of the documents.
        """
        if not self.count:
            return similarity
        if self.count == len(self.codes):
            ascends = bool(np.all(self.codes[1:] > self.codes[:-1]))
            return similarity if ascends else similarity[:, self._order]
        rows = similarity[self._order[self._starts]]
        sizes = lengths_between(self._starts, len(self._order))
        several = np.flatnonzero(sizes > 1)
        # Whole rows are reduced, which is ten times as fast as reducing within them.
        chunks = similarity[self._order[ranges(self._starts[several], sizes[several])]]
        rows[several] = np.maximum.reduceat(chunks, np.cumsum(sizes[several]) - sizes[several], axis=0)
        nearest: Float32Array = np.ascontiguousarray(rows.T)
        nearest[np.arange(len(self.codes)), self.codes] = 0
        return nearest

    @cached_property
    def _order(self) -> Int64Array:
        """The candidates, those of a document next to each other."""
        return np.argsort(self.codes, kind="stable")

    @cached_property
    def _starts(self) -> Int64Array:
        """Where each document begins in `_order`."""
        return starts(self.codes[self._order])


def neighbour_weights(lexical: Float32Array, dense: Float32Array) -> Float32Array:
    """Each candidate's weights over the documents nearest to it, float32, shape (n, documents).

    Both similarities as `Documents.nearest` gives them. Rows sum to 1, or to 0 where no document is like it.
    """
    affinity: Float32Array = LEXICAL_SHARE * _unit_spread(lexical) + (1 - LEXICAL_SHARE) * _unit_spread(dense)
    documents = affinity.shape[1]
    if documents > NEIGHBOURS:
        least = np.partition(affinity, documents - NEIGHBOURS, axis=1)[:, documents - NEIGHBOURS, None]
        affinity *= affinity >= least
    affinity *= affinity * affinity  # the third power, which takes ten times as long as one
    affinity /= np.maximum(affinity.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return affinity


def likeness_to_best(nearest: Float32Array, scores: Float64Array, documents: Documents, best: int) -> Float64Array:
    """Mean similarity to the `best` highest scored documents, weighted by score, float64, shape (n,).

    nearest: as `Documents.nearest` gives it; scores: shape (documents,). A candidate of one of these documents is
    compared with the others only: its likeness to itself says nothing.
    """
    chosen = np.zeros(len(scores))
    top = np.argsort(-scores, kind="stable")[:best]
    chosen[top] = np.maximum(scores[top], EPSILON)
    likeness: Float64Array = (nearest @ chosen) / np.maximum(chosen.sum() - chosen[documents.codes], EPSILON)
    return likeness


def _products(vectors: Float32Array) -> Float32Array:
    products = vectors @ vectors.T
    np.fill_diagonal(products, 0)
    return products


def _unit_spread(similarity: Float32Array) -> Float32Array:
    """Divided by the standard deviation over all pairs, so that two kinds of similarity weigh alike."""
    if similarity.size == 0:
        return similarity
    return similarity / np.float32(max(float(similarity.std()), float(EPSILON)))
