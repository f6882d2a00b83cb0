"""Labels agree with what PostgreSQL's jsonb and arrays call equal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.milvus.labels import MAX_LABELS, expression, labels_of
from rag.milvus.store import lexical_vector
from rag.pipeline.bm25 import bm25, inverse_document_frequency
from rag.pipeline.eligible import Eligibility
from rag.pipeline.types import QueryTerms

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, -0.0, "1", "true", "None", "É", '"] or 1'])
)
keys = st.sampled_from(["a", "b", "a.b"])


def lets_through(condition: str | None, labels: list[str]) -> bool:
    """What Milvus makes of the expression: a conjunction of "holds any of"."""
    if condition is None:
        return False
    clauses = condition.split(" and ") if condition else []
    found = [
        re.fullmatch(r'ARRAY_CONTAINS_ANY\(labels, \[("[0-9a-f]{32}"(?:, "[0-9a-f]{32}")*)\]\)', clause)
        for clause in clauses
    ]
    assert all(found), condition
    return all(not set(match[1].replace('"', "").split(", ")).isdisjoint(labels) for match in found if match)


def holds(metadata: Mapping[str, Any], key: str, wanted: Any) -> bool:
    def same(stored: Any) -> bool:
        # In JSON, true is not 1, but 1.0 is.
        return isinstance(stored, bool) == isinstance(wanted, bool) and stored == wanted

    if key not in metadata:
        return False
    stored = metadata[key]
    return any(map(same, stored)) if isinstance(stored, list) else same(stored)


@given(
    st.dictionaries(keys, scalars | st.lists(scalars, max_size=3)),
    st.dictionaries(keys, scalars | st.lists(scalars, min_size=1, max_size=3), max_size=2),
)
def test_any_filter_agrees_with_a_plain_reference(metadata: dict[str, Any], filters: dict[str, Any]) -> None:
    expected = all(
        any(holds(metadata, key, one) for one in (wanted if isinstance(wanted, list) else [wanted]))
        for key, wanted in filters.items()
    )
    assert lets_through(expression(Eligibility(None, filters), []), labels_of([], metadata)) == expected


@pytest.mark.parametrize(
    ("groups", "default", "own", "expected"),
    [
        (None, ["house"], ["staff"], True),
        ((), [], [], True),
        ((), [], ["staff"], False),
        ((), ["house"], [], False),
        (("house",), ["house"], [], True),
        (("house",), ["house"], ["staff"], False),
        (("staff",), ["house"], ["staff", "board"], True),
        (("staff",), ["house"], [], False),
    ],
)
def test_a_list_of_its_own_hides_the_collections_default(
    groups: tuple[str, ...] | None, default: list[str], own: list[str], expected: bool
) -> None:
    assert lets_through(expression(Eligibility(groups, {}), default), labels_of(own, {})) is expected


def test_metadata_can_not_pass_for_an_access_list() -> None:
    forged = labels_of(["board"], {"access": "staff", "open": True, "metadata": ["access", "staff"]})
    assert not lets_through(expression(Eligibility(("staff",), {}), []), forged)


def test_large_numbers_are_told_apart_and_equal_ones_are_not() -> None:
    assert labels_of([], {"n": 10**30}) == labels_of([], {"n": 1e30})
    assert labels_of([], {"n": 10**30}) != labels_of([], {"n": 10**30 + 1})


def test_of_too_many_labels_those_of_access_stay() -> None:
    labels = labels_of(["staff"], {"n": list(range(2 * MAX_LABELS))})
    assert len(labels) == MAX_LABELS
    assert lets_through(expression(Eligibility(("staff",), {}), []), labels)


def test_the_product_of_both_lexical_vectors_is_bm25() -> None:
    tokens = np.array([3, 0, 5, 3, 9, 0, 3], dtype=np.int32)
    terms = QueryTerms.from_positions(np.array([3, 9, 9, -1]), {3: 2, 9: 7}, 4.5, 11)
    weights = terms.counts * inverse_document_frequency(terms.document_frequencies, terms.chunk_count)
    vector = lexical_vector(tokens, 4.5)
    product = sum(
        vector.get(term, 0.0) * weight for term, weight in zip(terms.unique_ids.tolist(), weights, strict=True)
    )
    expected = bm25(np.array([[3.0, 1.0]]), np.array([5.0]), terms)
    assert product == pytest.approx(float(expected[0]))


def test_a_chunk_without_terms_has_a_vector_that_no_query_asks_for() -> None:
    assert lexical_vector(np.zeros(4, dtype=np.int32), 4.5) == {0: 1.0}
