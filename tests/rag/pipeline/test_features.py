"""Each formula against a plain reference, on inputs small enough to follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.pipeline.bm25 import TermFrequencies, bm25_scores, dirichlet, look_up, occurrences
from rag.pipeline.features import COLUMN, FEATURES, SCHEMA, SCHEMA_VERSION, extract
from rag.pipeline.neighbours import (
    NEIGHBOURS,
    Documents,
    embedding_similarity,
    lexical_similarity,
    likeness_to_best,
    neighbour_weights,
)
from rag.pipeline.types import Candidates, QueryTerms
from tests.rag.pipeline.candidates import candidates, drawn, query_terms


def rows_of(found: Candidates) -> list[list[int]]:
    return [found.tokens[start:end].tolist() for start, end in zip(found.offsets[:-1], found.offsets[1:], strict=True)]


def reference_bm25(query: QueryTerms, rows: list[list[int]]) -> list[float]:
    scores = []
    for row in rows:
        held = [token for token in row if token > 0]
        score = 0.0
        for term in [term for term in query.term_ids.tolist() if term > 0]:
            df = int(query.document_frequencies[query.unique_ids.tolist().index(term)])
            idf = math.log(1 + (query.chunk_count - df + 0.5) / (df + 0.5))
            tf = held.count(term)
            score += idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * len(held) / query.average_length))
        scores.append(score)
    return scores


def reference_similarity(rows: list[list[int]]) -> np.ndarray:
    n = len(rows)
    vectors = []
    for row in rows:
        vector = {}
        for term in {token for token in row if token > 0}:
            df = sum(term in other for other in rows)
            vector[term] = math.log(1 + row.count(term)) * math.log(1 + (n - df + 0.5) / (df + 0.5))
        length = math.sqrt(sum(value**2 for value in vector.values())) or 1.0
        vectors.append({term: value / length for term, value in vector.items()})
    return np.array(
        [[0.0 if a is b else sum(a[t] * b[t] for t in a.keys() & b.keys()) for b in vectors] for a in vectors]
    )


@pytest.mark.parametrize("seed", range(5))
def test_bm25_agrees_with_the_formula_written_out(seed):
    query, found = drawn(seed)
    assert bm25_scores(query, found) == pytest.approx(reference_bm25(query, rows_of(found)), rel=1e-5)


def test_bm25_counts_a_repeated_query_term_twice():
    found = candidates([[1, 2], [2, 3]])
    once = bm25_scores(query_terms([1], {1: 2}), found)
    assert bm25_scores(query_terms([1, 0, 1], {1: 2}), found) == pytest.approx(2 * once)


def test_the_query_likelihood_agrees_with_the_formula_written_out():
    query = query_terms([1, 2, 1], {1: 2, 2: 5}, average_length=4.0, chunk_count=10)
    found = candidates([[1, 1, 0, 2], [3, 3, 3]])
    expected = []
    for row in rows_of(found):
        length, mu, value = sum(token > 0 for token in row), 40.0, 0.0
        for term, df in ((1, 2), (2, 5), (1, 2)):
            background = df / (10 * 4.0)
            value += math.log((row.count(term) + mu * background) / (length + mu) / background)
        expected.append(value)
    terms = TermFrequencies.of(found.tokens, found.offsets)
    assert dirichlet(terms.of_terms(query.unique_ids), terms.lengths, query) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(5))
def test_word_similarity_agrees_with_the_formula_written_out(seed):
    _, found = drawn(seed)
    expected = reference_similarity(rows_of(found))
    assert lexical_similarity(TermFrequencies.of(found.tokens, found.offsets)) == pytest.approx(expected, abs=1e-5)


def test_embedding_similarity_is_the_cosine_around_the_mean():
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], dtype=np.float32)
    centred = [vector - vectors.mean(axis=0) for vector in vectors]
    similarity = embedding_similarity(vectors)
    for i, a in enumerate(centred):
        for j, b in enumerate(centred):
            cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            assert similarity[i, j] == pytest.approx(0.0 if i == j else max(cosine, 0.0), abs=1e-6)


def test_a_candidate_draws_only_on_the_documents_nearest_to_it():
    _, found = drawn(3, n=60, documents=30)
    documents = Documents.of(found.document_ids)
    weights = neighbour_weights(
        documents.nearest(lexical_similarity(TermFrequencies.of(found.tokens, found.offsets))),
        documents.nearest(embedding_similarity(found.embeddings)),
    )
    assert weights.shape == (60, documents.count)
    assert not weights[np.arange(60), documents.codes].any()
    assert weights.sum(axis=1) == pytest.approx(np.ones(60), abs=1e-5)
    assert (np.count_nonzero(weights, axis=1) <= NEIGHBOURS).all()


def test_a_document_is_as_near_and_as_good_as_its_best_chunk():
    documents = Documents.of(np.array([7, 3, 7, 5]))
    similarity = np.array([[0, 1, 9, 2], [1, 0, 3, 4], [9, 3, 0, 5], [2, 4, 5, 0]], dtype=np.float32)
    # Columns: documents 3, 5 and 7.
    assert documents.nearest(similarity).tolist() == [[1, 2, 0], [0, 4, 3], [3, 5, 0], [4, 0, 5]]
    assert documents.best(np.array([0.1, 0.2, 0.3, 0.4])).tolist() == [0.2, 0.4, 0.3]


@pytest.mark.parametrize("documents", [[3, 5, 7], [5, 3, 7], [7, 3, 5], [5, 7, 3]])
def test_where_every_candidate_is_a_document_each_is_as_near_as_it_is(documents: list[int]):
    similarity = np.array([[0, 1, 2], [1, 0, 3], [2, 3, 0]], dtype=np.float32)
    nearest = Documents.of(np.array(documents)).nearest(similarity)
    for column, document in enumerate(sorted(documents)):
        assert nearest[:, column].tolist() == similarity[:, documents.index(document)].tolist()


def test_likeness_leaves_a_document_itself_out():
    documents = Documents.of(np.array([0, 1, 2]))
    nearest = np.array([[0, 0.5, 0.1], [0.5, 0, 0.2], [0.1, 0.2, 0]], dtype=np.float32)
    likeness = likeness_to_best(nearest, np.array([1.0, 0.5, 0.1]), documents, best=2)
    assert likeness == pytest.approx([0.5, 0.5, (0.1 * 1.0 + 0.2 * 0.5) / 1.5])


def test_the_chunks_of_a_lone_document_have_no_neighbours():
    _, found = drawn(4, n=12, documents=1)
    assert not extract(*drawn(4, n=12, documents=1)).values[:, COLUMN["neighbours"]].any()
    assert Documents.of(found.document_ids).count == 1


def test_coverage_and_bigrams_are_those_of_a_case_worked_out_by_hand():
    query = query_terms([1, 0, 2, 3, -1], {1: 4, 2: 4, 3: 9})
    idf = {term: math.log(1 + (10 - df + 0.5) / (df + 0.5)) for term, df in ((1, 4), (2, 4), (3, 9))}
    total = sum(idf.values())
    found = candidates(
        [[1, 2, 9, 9, 9, 3], [3, 9, 1, 9, 9, 9, 9, 2], [9, 2, 3]],
        title_lengths=[1, 0, 2],
    )
    values = extract(query, found).values
    assert values[:, COLUMN["title_coverage"]] == pytest.approx([idf[1] / total, 0, idf[2] / total])
    assert values[:, COLUMN["body_coverage"]] == pytest.approx([(idf[2] + idf[3]) / total, 1, idf[3] / total])
    # The query's pairs are 1-2 and 2-3.
    assert values[:, COLUMN["bigram_overlap"]] == pytest.approx([0.5, 0, 0.5])


def test_ranks_lengths_and_agreement_are_those_of_a_case_worked_out_by_hand():
    found = candidates([[1, 2], [3] * 8, [1]], dense_ranks=[1, 2, 0], lexical_ranks=[2, 0, 1])
    values = extract(query_terms([1], {1: 2}), found).values
    assert values[:, COLUMN["dense_rank"]] == pytest.approx([60 / 61, 60 / 62, 0])
    assert values[:, COLUMN["lexical_rank"]] == pytest.approx([60 / 62, 0, 60 / 61])
    assert values[:, COLUMN["reciprocal_rank_fusion"]] == pytest.approx([(60 / 61 + 60 / 62) / 2, 30 / 62, 30 / 61])
    assert values[:, COLUMN["length"]] == pytest.approx([math.log(2 / 4), math.log(8 / 4), math.log(1 / 4)])
    assert values[:, COLUMN["agreement"]] == pytest.approx([1 / 3] * 3)
    assert values[:, COLUMN["query_length"]] == pytest.approx([math.log(2)] * 3)


@pytest.mark.parametrize("seed", range(10))
def test_every_value_is_finite_and_within_its_declared_range(seed):
    query, found = drawn(seed, n=[1, 2, 5, 11, 80][seed % 5])
    values = extract(query, found).values
    assert values.dtype == np.float32
    assert values.shape == (len(found), len(FEATURES))
    for column, feature in enumerate(SCHEMA):
        assert feature.low <= values[:, column].min() <= values[:, column].max() <= feature.high, feature.name


@pytest.mark.parametrize("term_ids", [[], [0, 0], [-1]])
def test_a_query_without_known_terms_still_has_features(term_ids):
    values = extract(query_terms(term_ids, {}), candidates([[1, 2], [], [3]])).values
    assert np.isfinite(values).all()
    assert not values[:, COLUMN["bm25"]].any()


def test_no_candidates_give_an_empty_matrix():
    matrix = extract(query_terms([1], {1: 1}), candidates([], embeddings=np.zeros((0, 3), dtype=np.float32)))
    assert matrix.values.shape == (0, len(FEATURES))
    assert matrix.schema_version == SCHEMA_VERSION


def test_equal_candidates_have_equal_features():
    tokens = [[1, 2, 3]] * 200
    same = np.tile(np.array([1, 0, 0], dtype=np.float32), (200, 1))
    found = candidates(tokens, distances=[0.3] * 200, dense_ranks=[0] * 200, embeddings=same)
    values = extract(query_terms([1], {1: 200}, 3.0, 200), found).values
    assert np.isfinite(values).all()
    assert np.abs(values - values[0]).max() < 1e-5


def test_a_term_of_every_chunk_still_has_a_positive_weight():
    assert bm25_scores(query_terms([1], {1: 10}), candidates([[1], [2]]))[0] > 0


@given(
    st.lists(st.sampled_from([-1, 0, 3, 65_535, 65_536, 65_539, 131_072, 2**31 - 1]), max_size=40),
    st.sets(st.sampled_from([0, 3, 65_536, 65_539, 2**31 - 1])),
)
def test_terms_are_found_where_they_stand_also_when_their_last_bits_are_those_of_others(values, ids):
    tokens, sorted_ids = np.array(values, dtype=np.int32), np.array(sorted(ids), dtype=np.int32)
    position, found = look_up(tokens, sorted_ids)
    places, which = occurrences(tokens, sorted_ids)
    assert places.tolist() == np.flatnonzero(found).tolist()
    assert which.tolist() == position[found].tolist()
