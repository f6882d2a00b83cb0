"""Postings made of tokens in memory: they count and rank as the formula says, written out."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.pipeline.inverted import InvertedIndex
from rag.pipeline.types import GAP

CHUNK = st.lists(st.sampled_from([GAP, GAP, 1, 2, 2, 3, 5, 8, 13, 2**31 - 1]), max_size=12)
CHUNKS = st.lists(CHUNK, max_size=25)


def index_of(chunks: list[list[int]]) -> InvertedIndex:
    tokens = np.array([token for chunk in chunks for token in chunk], dtype=np.int32)
    return InvertedIndex.of(tokens, np.cumsum([0, *map(len, chunks)], dtype=np.int64))


def counts_of(chunks: list[list[int]]) -> list[Counter[int]]:
    return [Counter(token for token in chunk if token != GAP) for chunk in chunks]


@given(CHUNKS, st.sets(st.sampled_from([1, 2, 3, 4, 5, 13, 99, 2**31 - 1])))
def test_it_counts_the_chunks_that_hold_a_term(chunks: list[list[int]], asked: set[int]) -> None:
    term_ids = np.array(sorted(asked), dtype=np.int32)
    expected = [sum(term in counts for counts in counts_of(chunks)) for term in sorted(asked)]
    assert index_of(chunks).document_frequencies(term_ids).tolist() == expected


@given(CHUNKS, st.dictionaries(st.sampled_from([1, 2, 3, 4, 13]), st.sampled_from([0.5, 1.0, 3.0])), st.integers(1, 30))
def test_the_best_are_those_of_the_formula(chunks: list[list[int]], weights: dict[int, float], depth: int) -> None:
    index, counts = index_of(chunks), counts_of(chunks)
    average = sum(one.total() for one in counts) / len(counts) if counts else 0.0
    assert index.average_length == pytest.approx(average)
    scores = {
        place: sum(
            weight * one[term] * 2.2 / (one[term] + 1.2 * (0.25 + 0.75 * one.total() / average))
            for term, weight in weights.items()
            if one[term]
        )
        for place, one in enumerate(counts)
        if any(one[term] for term in weights)
    }
    found = index.rank(np.array(list(weights), dtype=np.int32), np.array(list(weights.values())), depth).tolist()
    assert len(found) == len(set(found)) == min(depth, len(scores))
    best = sorted(scores.values(), reverse=True)[: len(found)]
    assert [scores[place] for place in found] == pytest.approx(best)
    # Chunks with the same tokens come in their order.
    for first, second in itertools.pairwise(found):
        assert counts[first] != counts[second] or first < second
