"""What every retrieval mode promises: on the same documents, all give the same candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ops.contracts.health import State
from rag.milvus.service import deliver_now
from rag.models import Collection, Document, EmbeddingSpace
from rag.pipeline.database import hot_cursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import read_words
from rag.pipeline.retrieval import check_retrieval, retrieve
from rag.pipeline.types import Float32Array
from tests.rag.pipeline.support import put, remove, snapshot_of, unit_vectors

COUNT = 60

pytestmark = pytest.mark.django_db


class Searcher:
    """A collection in one mode. ``legs`` fails the test when anything is degraded."""

    def __init__(self, mode: str, space: EmbeddingSpace) -> None:
        self.mode, self.space = mode, space
        self.collection = Collection.objects.create(slug="contract")

    def put(self, document_id: str, *passages: str, **given: Any) -> list[int]:
        return put(self.collection, self.space, document_id, *passages, **given)

    def legs(
        self,
        query_embedding: Float32Array,
        words: str = "",
        *,
        groups: tuple[str, ...] | None = None,
        filters: dict[str, Any] | None = None,
        depth: int = 100,
    ) -> tuple[list[int], list[int]]:
        snapshot = snapshot_of(
            self.collection, self.space, retrieval_mode=self.mode, groups=groups, candidate_depth=depth
        )
        if self.mode == "milvus":
            deliver_now()
        degraded: dict[str, str] = {}
        eligibility = Eligibility(groups, filters or {})
        with hot_cursor() as cursor, read_words(cursor, snapshot, eligibility, words) as said:
            _, dense, lexical = retrieve(cursor, snapshot, eligibility, query_embedding, said, degraded.setdefault)
        assert degraded == {}
        return dense.tolist(), lexical.tolist()

    def names(self, **given: Any) -> set[str]:
        """Ids of the documents that both legs found; they must agree."""
        dense, lexical = self.legs(unit_vectors(99, 1)[0], "words", **given)
        assert set(dense) == set(lexical)
        return set(Document.objects.filter(chunks__in=dense).values_list("document_id", flat=True))


@pytest.fixture
def searcher(mode: str, space: EmbeddingSpace) -> Searcher:
    return Searcher(mode, space)


def nearest(chunks: list[int], vectors: Float32Array, query: Float32Array) -> list[int]:
    return [chunks[position] for position in np.lexsort((chunks, -(vectors.astype(np.float64) @ query)))]


def test_it_finds_exactly_the_nearest_vectors_and_cuts_after_them(searcher: Searcher) -> None:
    vectors = unit_vectors(1, COUNT)
    chunks = searcher.put("d", *[f"w{number}" for number in range(COUNT)], vectors=vectors)
    for seed in range(2, 6):
        (query,) = unit_vectors(seed, 1)
        assert searcher.legs(query)[0] == nearest(chunks, vectors, query)
        assert searcher.legs(query, depth=10)[0] == nearest(chunks, vectors, query)[:10]


def test_its_words_are_ranked_by_bm25(searcher: Searcher) -> None:
    (often,) = searcher.put("often", "owls owls owls hunt")
    (once,) = searcher.put("once", "owls hunt mice in a field at night while it rains")
    (rare,) = searcher.put("rare", "a lynx hunts")
    searcher.put("other", "bees dance")
    nothing = np.zeros(8, np.float32)
    assert searcher.legs(nothing, "owl") == ([], [often, once])
    assert searcher.legs(nothing, "the lynx and owls")[1][0] == rare
    assert searcher.legs(nothing, "heron") == ([], [])
    assert searcher.legs(nothing, "") == ([], [])


def test_an_empty_collection_gives_nothing(searcher: Searcher) -> None:
    assert searcher.legs(unit_vectors(1, 1)[0], "owls") == ([], [])
    assert searcher.legs(unit_vectors(1, 1)[0], "owls", groups=("staff",), filters={"year": 1}) == ([], [])


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ((), {"open"}),
        (("staff",), {"open", "staff"}),
        (("owners", "staff"), {"open", "staff", "board"}),
        (("STAFF", "staff ", "{staff}", "it's"), {"open"}),
        (("it's, {odd}\" or 1 == 1",), {"open", "odd"}),
        (None, {"open", "staff", "board", "odd"}),
    ],
)
def test_a_reader_finds_what_its_groups_may_read(
    searcher: Searcher, groups: tuple[str, ...] | None, expected: set[str]
) -> None:
    access = {"open": [], "staff": ["staff"], "board": ["board", "owners"], "odd": ["it's, {odd}\" or 1 == 1"]}
    for number, (name, readers) in enumerate(access.items()):
        searcher.put(name, "the same words", vectors=unit_vectors(number, 1), access_groups=readers)
    assert searcher.names(groups=groups) == expected


def test_what_may_not_be_read_takes_no_place_in_the_list(searcher: Searcher) -> None:
    (query,) = unit_vectors(7, 1)
    searcher.put("secret", *["words words"] * 20, vectors=np.tile(query, (20, 1)), access_groups=["staff"])
    open_chunks = searcher.put("open", *["few words here"] * 5, vectors=unit_vectors(8, 5))
    dense, lexical = searcher.legs(query, "words", groups=(), depth=10)
    assert set(dense) == set(lexical) == set(open_chunks)


def test_the_default_of_the_collection_guards_documents_without_a_list(searcher: Searcher) -> None:
    searcher.put("open", "words")
    searcher.put("staff", "words", access_groups=["staff"])
    Collection.objects.filter(id=searcher.collection.id).update(default_access_groups=["house"])
    assert searcher.names(groups=()) == set()
    assert searcher.names(groups=("house",)) == {"open"}
    assert searcher.names(groups=("staff",)) == {"staff"}
    assert searcher.names() == {"open", "staff"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"year": 2001}, {"new", "both"}),
        ({"year": 2001.0}, {"new", "both"}),
        ({"year": [1999, 2001]}, {"old", "new", "both"}),
        ({"year": "2001"}, {"text"}),
        ({"year": True}, {"flag"}),
        ({"year": None}, {"null"}),
        ({"year": 1}, set()),
        ({"year": 2001, "kind": "é\"'] or true"}, {"both"}),
        ({"kind": ["a", "é\"'] or true"]}, {"old", "both"}),
        ({"absent": 1}, set()),
    ],
)
def test_a_filter_lets_through_what_holds_the_value(
    searcher: Searcher, filters: dict[str, Any], expected: set[str]
) -> None:
    metadata = {
        "old": {"year": 1999, "kind": "a"},
        "new": {"year": 2001},
        "both": {"year": [1999, 2001], "kind": "é\"'] or true"},
        "text": {"year": "2001"},
        "flag": {"year": True},
        "null": {"year": None},
        "none": {},
    }
    for number, (name, given) in enumerate(metadata.items()):
        searcher.put(name, "the same words", vectors=unit_vectors(number, 1), metadata=given)
    assert searcher.names(filters=filters) == expected


def test_a_filter_applies_before_the_list_is_cut(searcher: Searcher) -> None:
    vectors = unit_vectors(1, COUNT)
    chunks = [
        searcher.put(f"d{row}", "words", vectors=vectors[row : row + 1], metadata={"part": row % 3})[0]
        for row in range(COUNT)
    ]
    (query,) = unit_vectors(20, 1)
    dense, lexical = searcher.legs(query, "words", filters={"part": 1}, depth=15)
    assert dense == nearest(chunks[1::3], vectors[1::3], query)[:15]
    assert len(lexical) == 15
    assert set(lexical) <= set(chunks[1::3])


def test_filters_apply_beside_groups(searcher: Searcher) -> None:
    searcher.put("open", "words", metadata={"year": 1})
    searcher.put("staff", "words", metadata={"year": 1}, access_groups=["staff"])
    searcher.put("other", "words", metadata={"year": 2})
    assert searcher.names(groups=(), filters={"year": 1}) == {"open"}
    assert searcher.names(groups=("staff",), filters={"year": 1}) == {"open", "staff"}


def test_it_looks_only_at_its_own_space_and_collection(searcher: Searcher) -> None:
    other = Searcher.__new__(Searcher)
    other.mode, other.space = searcher.mode, searcher.space
    other.collection = Collection.objects.create(slug="other")
    other.put("elsewhere", "words")
    assert searcher.names() == set()
    assert other.names() == {"elsewhere"}


def test_a_changed_document_is_found_as_it_is_now(searcher: Searcher) -> None:
    first = searcher.put("d", "owls hunt", "owls sleep")
    (second,) = searcher.put("d", "bees dance")
    query = unit_vectors(1, 1)[0]
    assert searcher.legs(query, "owls bees") == ([second], [second])
    assert second not in first
    searcher.put("d", "bees dance", metadata={"year": 1}, access_groups=["staff"])
    assert searcher.names(groups=()) == set()
    assert searcher.legs(query, "bees", groups=("staff",), filters={"year": 1}) == ([second], [second])


def test_a_removed_document_is_gone(searcher: Searcher) -> None:
    searcher.put("gone", "words")
    searcher.put("kept", "words")
    assert searcher.names() == {"gone", "kept"}
    remove(searcher.collection, "gone")
    assert searcher.names() == {"kept"}


def test_its_health_is_well(searcher: Searcher, settings: Any) -> None:
    settings.RAG_RETRIEVAL_MODE = searcher.mode
    assert check_retrieval().state is State.OK
