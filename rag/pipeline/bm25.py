"""Term statistics of the candidates, and BM25 and its kin computed from them.

All of it comes from the candidates' token arrays, so a feature costs no further round trip to the database.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rag.pipeline.types import GAP, Candidates, Float32Array, Float64Array, Int32Array, Int64Array, QueryTerms

BM25_K1 = 1.2
BM25_B = 0.75


@dataclass(frozen=True)
class TermFrequencies:
    """How often each term occurs in each candidate, as triples in the order of (term, candidate).

    terms, rows, counts: int64, shape (triples,): term id, position of the candidate, occurrences (at least 1).
    lengths: float64, shape (n,), non-gap tokens of each candidate.
    """

    terms: Int64Array
    rows: Int64Array
    counts: Int64Array
    lengths: Float64Array

    @classmethod
    def of(cls, tokens: Int32Array, offsets: Int64Array) -> TermFrequencies:
        """Of texts of which text i's tokens are ``tokens[offsets[i]:offsets[i + 1]]``."""
        n = len(offsets) - 1
        held = np.flatnonzero(tokens > GAP)
        token_rows, tokens = np.repeat(np.arange(n), np.diff(offsets))[held], tokens[held]
        # Half as wide where that is wide enough, which sorts twice as fast.
        bits = n.bit_length()
        fits = int(tokens.max(initial=0)) < np.iinfo(np.int32).max >> bits
        width = np.dtype(np.int32 if fits else np.int64)
        keys: np.typing.NDArray[np.integer] = np.left_shift(tokens.astype(width), bits)
        keys |= token_rows.astype(width)
        keys.sort()
        begins = starts(keys)
        first = keys[begins].astype(np.int64)
        terms, rows = first >> bits, first & ((1 << bits) - 1)
        counts = lengths_between(begins, len(keys))
        return cls(terms, rows, counts, np.bincount(token_rows, minlength=n).astype(np.float64))

    @cached_property
    def local_document_frequencies(self) -> Int64Array:
        """int64, shape (triples,): how many candidates hold the triple's term."""
        sizes = run_lengths(self.terms)
        return np.repeat(sizes, sizes)

    def of_terms(self, term_ids: np.typing.NDArray[np.integer]) -> Float64Array:
        """float64, shape (n, terms): occurrences of each of `term_ids` (ascending) in each candidate."""
        table = np.zeros((len(self.lengths), len(term_ids)))
        places, columns = occurrences(self.terms, term_ids)
        table[self.rows[places], columns] = self.counts[places]
        return table


def starts(ascending: np.typing.NDArray[np.integer]) -> Int64Array:
    """Where each run of equal values begins."""
    begins = np.ones(len(ascending), dtype=np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=begins[1:])
    return np.flatnonzero(begins)


def lengths_between(begins: Int64Array, end: int) -> Int64Array:
    """From each beginning to the next, and from the last to ``end``."""
    lengths = np.empty(len(begins), dtype=np.int64)
    np.subtract(begins[1:], begins[:-1], out=lengths[:-1])
    if len(begins):
        lengths[-1] = end - begins[-1]
    return lengths


def ranges(begins: Int64Array, lengths: Int64Array) -> Int64Array:
    """The numbers from each beginning on, as many as its length, one range after the other."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    numbers: Int64Array = np.arange(total) + np.repeat(begins - (ends - lengths), lengths)
    return numbers


def run_lengths(ascending: np.typing.NDArray[np.integer]) -> Int64Array:
    """How long each run of equal values is, int64, shape (runs,)."""
    return lengths_between(starts(ascending), len(ascending))


def look_up(
    values: np.typing.NDArray[np.integer], sorted_ids: np.typing.NDArray[np.integer]
) -> tuple[Int64Array, np.typing.NDArray[np.bool_]]:
    """Position of each value in `sorted_ids`, and whether it is there at all (else the position is arbitrary)."""
    if len(sorted_ids) == 0:
        return np.zeros(len(values), dtype=np.int64), np.zeros(len(values), dtype=np.bool_)
    position = np.minimum(np.searchsorted(sorted_ids, values), len(sorted_ids) - 1)
    return position, sorted_ids[position] == values


_FILTER_BITS = 16
"""Of an id: few enough for a table in the processor's first cache, and enough to let little else through."""


def occurrences(
    values: np.typing.NDArray[np.integer], sorted_ids: np.typing.NDArray[np.integer]
) -> tuple[Int64Array, Int64Array]:
    """Where in `values` one of `sorted_ids` stands, ascending, and which: its position among them. Both int64.

    As `look_up`, five times as fast where most values are none of the ids: their last bits sort those out.
    """
    mask = (1 << _FILTER_BITS) - 1
    may_be = np.zeros(mask + 1, dtype=np.bool_)
    may_be[sorted_ids & mask] = True
    places = np.flatnonzero(may_be[values & mask])
    position, found = look_up(values[places], sorted_ids)
    return places[found], position[found]


def inverse_document_frequency(document_frequencies: np.typing.NDArray[np.generic], count: int) -> Float64Array:
    """ln(1 + (N − df + 0.5) / (df + 0.5)), as Lucene computes it: positive even for a term in every chunk."""
    frequencies = np.asarray(document_frequencies, dtype=np.float64)
    return np.log1p(np.maximum(count - frequencies + 0.5, 0.0) / (frequencies + 0.5))


def bm25_scores(query: QueryTerms, candidates: Candidates) -> Float32Array:
    """BM25 of each candidate, float32, shape (n,): the score that the lexical retriever ranks by."""
    frequencies = TermFrequencies.of(candidates.tokens, candidates.offsets)
    return bm25(frequencies.of_terms(query.unique_ids), frequencies.lengths, query).astype(np.float32)


def bm25(
    frequencies: Float64Array,
    lengths: Float64Array,
    query: QueryTerms,
    k1: float = BM25_K1,
    b: float = BM25_B,
) -> Float64Array:
    """BM25 of each candidate, float64, shape (n,); a term that the query repeats counts as often.

    frequencies: shape (n, terms), columns as `query.unique_ids`. Robertson and Zaragoza, The Probabilistic Relevance
    Framework (2009), equation 3.15, times (k1 + 1).
    """
    weights = query.counts * inverse_document_frequency(query.document_frequencies, query.chunk_count)
    average = query.average_length or 1.0
    saturation = k1 * (1.0 - b + b * lengths / average)
    return (frequencies * (k1 + 1.0) / (frequencies + saturation[:, None])) @ weights


def dirichlet(
    frequencies: Float64Array, lengths: Float64Array, query: QueryTerms, smoothing_lengths: float = 10.0
) -> Float64Array:
    """Log-likelihood ratio of the query under a Dirichlet-smoothed unigram model, float64, shape (n,).

    Zhai and Lafferty, A Study of Smoothing Methods for Language Models (2004), equation 6. The collection model is
    df / (N · average length), since df is what the collection keeps; mu is `smoothing_lengths` average lengths.
    """
    mu = smoothing_lengths * (query.average_length or 1.0)
    tokens = max(query.chunk_count, 1) * (query.average_length or 1.0)
    background = np.maximum(query.document_frequencies, 1) / tokens
    likelihood: Float64Array = np.log1p(frequencies / (mu * background)) @ query.counts.astype(np.float64)
    likelihood += query.counts.sum() * np.log(mu / (lengths + mu))
    return likelihood
