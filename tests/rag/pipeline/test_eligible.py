"""Which passages a filter and a principal's groups let through, the same in every retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rag.models import Collection, Document, EmbeddingSpace
from rag.pipeline.candidates import read_candidates
from rag.pipeline.database import hot_cursor
from rag.pipeline.dense import retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import read_query, retrieve_lexical
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import put, remove, snapshot_of, unit_vectors

pytestmark = pytest.mark.django_db

DOCUMENTS: dict[str, dict[str, Any]] = {
    "number": {"year": 2001},
    "fraction": {"year": 2001.5},
    "text": {"year": "2001"},
    "list": {"year": [1999, 2001], "tag": ["red", "green"]},
    "nested list": {"year": [[2001]]},
    "true": {"flag": True, "tag": "red"},
    "one": {"flag": 1},
    "false": {"flag": False},
    "null": {"flag": None},
    "none": {},
    "object": {"author": {"name": "Ada"}, "tag": {"red": 1}},
    "dotted": {"author.name": "Ada"},
    "quoted": {"it's": "'; DROP TABLE rag_chunk; --", 'say "hi"': "\\"},
    "wide": {"größe": "😀", "%s": "%(groups)s"},
    "empty": {"tag": "", "": "nameless"},
}


@pytest.fixture(scope="module")
def indexed(module_transaction: None) -> tuple[Collection, EmbeddingSpace]:
    collection, space = Collection.objects.create(slug="filtered"), make_space()
    for number, (name, metadata) in enumerate(DOCUMENTS.items()):
        put(collection, space, name, "the same words", vectors=unit_vectors(number, 1), metadata=metadata)
    return collection, space


def found(
    collection: Collection,
    space: EmbeddingSpace,
    filters: Mapping[str, Any] | None = None,
    groups: tuple[str, ...] | None = None,
) -> set[str]:
    """The ids of the documents that both retrievers find; they must agree."""
    snapshot = snapshot_of(collection, space, groups=groups)
    eligibility = Eligibility(groups, filters or {})
    with hot_cursor() as cursor:
        terms = read_query(cursor, snapshot, "words")
        lexical = retrieve_lexical(cursor, snapshot, eligibility, terms)
        dense = retrieve_dense(cursor, snapshot, eligibility, unit_vectors(99, 1)[0])
    assert set(dense.tolist()) == set(lexical.tolist())
    return set(Document.objects.filter(chunks__in=dense.tolist()).values_list("document_id", flat=True))


def named(value: object) -> str:
    """The name of a case: a set has no order of its own."""
    return "" if isinstance(value, set) else str(value)


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, set(DOCUMENTS)),
        ({"year": 2001}, {"number", "list"}),
        ({"year": 2001.0}, {"number", "list"}),
        ({"year": "2001"}, {"text"}),
        ({"year": [2001.5, "2001"]}, {"fraction", "text"}),
        ({"year": (2001.5, "2001")}, {"fraction", "text"}),
        ({"year": 1999, "tag": "green"}, {"list"}),
        ({"year": 1999, "tag": "blue"}, set()),
        ({"tag": "red"}, {"list", "true"}),
        ({"tag": ["blue", "green"]}, {"list"}),
        ({"tag": ""}, {"empty"}),
        ({"": "nameless"}, {"empty"}),
        ({"flag": True}, {"true"}),
        ({"flag": 1}, {"one"}),
        ({"flag": False}, {"false"}),
        ({"flag": None}, {"null"}),
        ({"flag": [None, False]}, {"null", "false"}),
        ({"author.name": "Ada"}, {"dotted"}),
        ({"author": "Ada"}, set()),
        ({"it's": "'; DROP TABLE rag_chunk; --"}, {"quoted"}),
        ({'say "hi"': "\\"}, {"quoted"}),
        ({"größe": "😀"}, {"wide"}),
        ({"%s": "%(groups)s"}, {"wide"}),
        ({"year'} OR true --": 1}, set()),
        ({"year": "2001' OR '1'='1"}, set()),
        ({"year": 10**30}, set()),
        ({"year": -0.0}, set()),
        ({"unheard of": "x"}, set()),
    ],
    ids=named,
)
def test_a_filter_lets_through_what_holds_the_value(indexed, filters, expected) -> None:
    assert found(*indexed, filters) == expected


scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from([0.5, 1.0, "1", "true", "a", "É"]))
keys = st.sampled_from(["a", "b", "a.b"])


def holds(metadata: Mapping[str, Any], key: str, wanted: Any) -> bool:
    def same(stored: Any) -> bool:
        # In JSON, true is not 1, but 1.0 is.
        return isinstance(stored, bool) == isinstance(wanted, bool) and stored == wanted

    if key not in metadata:
        return False
    stored = metadata[key]
    return any(map(same, stored)) if isinstance(stored, list) else same(stored)


@given(
    st.lists(st.dictionaries(keys, scalars | st.lists(scalars, max_size=3)), min_size=1, max_size=6),
    st.dictionaries(keys, scalars | st.lists(scalars, min_size=1, max_size=3), max_size=2),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_any_filter_agrees_with_a_plain_reference(indexed, stored, filters) -> None:
    collection, space = indexed
    now = {name: {} for name in DOCUMENTS} | dict(zip(DOCUMENTS, stored, strict=False))
    documents = list(Document.objects.filter(collection=collection))
    for document in documents:
        document.metadata = now[document.document_id]
    Document.objects.bulk_update(documents, ["metadata"])
    expected = {
        name
        for name, metadata in now.items()
        if all(
            any(holds(metadata, key, one) for one in (wanted if isinstance(wanted, list) else [wanted]))
            for key, wanted in filters.items()
        )
    }
    assert found(collection, space, filters) == expected


class TestGroups:
    ACCESS = {"open": [], "staff": ["staff"], "board": ["board", "owners"], "odd": ["it's, {odd}"]}

    @pytest.fixture
    def guarded(self, space: EmbeddingSpace) -> tuple[Collection, EmbeddingSpace]:
        collection = Collection.objects.create(slug="guarded")
        for number, (name, groups) in enumerate(self.ACCESS.items()):
            put(collection, space, name, "the same words", vectors=unit_vectors(number, 1), access_groups=groups)
        return collection, space

    @pytest.mark.parametrize(
        ("groups", "expected"),
        [
            ((), {"open"}),
            (("staff",), {"open", "staff"}),
            (("owners", "staff"), {"open", "staff", "board"}),
            (("nobody", "STAFF", "staff "), {"open"}),
            (("it's, {odd}",), {"open", "odd"}),
            (("{staff}", "staff,board", "'"), {"open"}),
            (None, {"open", "staff", "board", "odd"}),
        ],
        ids=named,
    )
    def test_a_principal_finds_what_its_groups_may_read(self, guarded, groups, expected) -> None:
        assert found(*guarded, groups=groups) == expected

    def test_the_default_of_a_collection_guards_documents_without_a_list(self, guarded) -> None:
        collection, space = guarded
        Collection.objects.filter(id=collection.id).update(default_access_groups=["house"])
        assert found(collection, space, groups=()) == set()
        assert found(collection, space, groups=("house",)) == {"open"}
        assert found(collection, space, groups=("staff",)) == {"staff"}

    def test_filters_apply_beside_groups(self, guarded) -> None:
        collection, space = guarded
        Document.objects.filter(collection=collection).update(metadata={"year": 1})
        assert found(collection, space, {"year": 1}, groups=("staff",)) == {"open", "staff"}
        assert found(collection, space, {"year": 2}, groups=("staff",)) == set()

    def test_documents_of_another_collection_are_never_found(self, guarded) -> None:
        collection, space = guarded
        other = Collection.objects.create(slug="other")
        put(other, space, "elsewhere", "the same words", metadata={"year": 1})
        assert found(collection, space, groups=()) == {"open"}
        assert found(collection, space, {"year": 1}) == set()

    def test_what_is_hidden_changes_no_figure_of_what_is_seen(self, guarded) -> None:
        collection, space = guarded
        snapshot = snapshot_of(collection, space, groups=())
        eligibility = Eligibility((), {})
        query = unit_vectors(99, 1)[0]

        def seen() -> tuple[Any, ...]:
            with hot_cursor() as cursor:
                terms = read_query(cursor, snapshot, "same secret words")
                dense = retrieve_dense(cursor, snapshot, eligibility, query)
                lexical = retrieve_lexical(cursor, snapshot, eligibility, terms)
                candidates = read_candidates(cursor, snapshot, dense, lexical, query)
            values = (*_fields(terms), *_fields(candidates))
            return tuple(value.tolist() if isinstance(value, np.ndarray) else value for value in values)

        before = seen()
        put(collection, space, "spy", "a secret of secret words", "the same words", access_groups=["staff"])
        assert seen() == before
        remove(collection, "board")
        assert seen() == before
        put(collection, space, "known", "a secret that all may read")
        assert seen() != before


def _fields(row: Any) -> list[Any]:
    return [getattr(row, name) for name in row.__dataclass_fields__]
