"""Postings in memory: ranked as one by one, never older than the collection, and never more than there is room for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.models import Collection, EmbeddingSpace
from rag.pipeline import postings
from rag.pipeline.database import hot_cursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import read_query, retrieve_lexical
from rag.pipeline.postings import BYTES_PER_POSTING, TermPostings, held_postings, rank
from rag.pipeline.types import Float64Array, Int64Array
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import put, remove, snapshot_of

EVERYTHING = Eligibility(None, {})
HELD_BYTES = BYTES_PER_POSTING + 8 + postings._OVERHEAD_BYTES
"""Of a term with one posting, whose impact is kept once more as one of the highest."""

TERM = st.dictionaries(st.integers(1, 40), st.integers(1, 5), min_size=1, max_size=30)


def of(frequencies: dict[int, int]) -> TermPostings:
    """Of chunks that are all as long as the average: f · 2.2 / (f + 1.2)."""
    ids, counts = (np.array(list(column), dtype=np.int64) for column in (frequencies, frequencies.values()))
    return TermPostings.of(ids, counts, np.full(len(ids), 7), 7.0)


TERMS = st.lists(st.tuples(TERM, st.sampled_from([0.25, 0.5, 1.0, 2.0])), min_size=1, max_size=4)


@pytest.mark.parametrize("few", [0, 10_000], ids=["of the promising", "of all"])
@given(terms=TERMS, depth=st.integers(1, 50))
def test_the_best_are_those_of_adding_up_one_by_one(
    few: int, terms: list[tuple[dict[int, int], float]], depth: int
) -> None:
    scores: dict[int, float] = {}
    for frequencies, weight in terms:
        for chunk_id, frequency in frequencies.items():
            scores[chunk_id] = scores.get(chunk_id, 0.0) + weight * (frequency * 2.2 / (frequency + 1.2))
    expected = sorted(scores, key=lambda chunk_id: (-scores[chunk_id], chunk_id))[:depth]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postings, "FEW_POSTINGS", few)
        found = rank([of(frequencies) for frequencies, _ in terms], np.array([weight for _, weight in terms]), depth)
    assert found.tolist() == expected


def test_of_common_words_only_the_promising_chunks_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A word that few chunks hold, and one that nearly all do: they are ranked by the first."""
    rare = of({chunk_id: 1 + chunk_id % 5 for chunk_id in range(0, 20_000, 50)})
    common = of({chunk_id: 1 + chunk_id % 7 for chunk_id in range(20_000)})
    added_up: list[int] = []

    def counting(terms: Sequence[TermPostings], weights: Float64Array, chunk_ids: Int64Array) -> Float64Array:
        added_up.append(len(chunk_ids))
        return scores(terms, weights, chunk_ids)

    scores = postings._scores
    monkeypatch.setattr(postings, "_scores", counting)
    weights = np.array([6.0, 0.5])
    found = rank([rare, common], weights, 100)
    assert 100 <= sum(added_up) <= 400
    monkeypatch.setattr(postings, "FEW_POSTINGS", 1_000_000)
    assert found.tolist() == rank([rare, common], weights, 100).tolist()


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_terms_that_lost_their_last_chunk_meanwhile_find_nothing(terms: int) -> None:
    assert rank([of({})] * terms, np.ones(terms), 10).tolist() == []


class TestHeld:
    @pytest.fixture
    def collection(self, db: None) -> Collection:
        return Collection.objects.create(slug="lamps")

    @pytest.fixture
    def space(self, db: None) -> EmbeddingSpace:
        return make_space()

    def search(self, collection: Collection, space: EmbeddingSpace, query: str) -> Int64Array:
        snapshot = snapshot_of(collection, space)
        with hot_cursor() as cursor:
            return retrieve_lexical(cursor, snapshot, EVERYTHING, read_query(cursor, snapshot, query))

    def test_a_term_is_read_once_and_again_when_the_collection_changed(
        self, collection: Collection, space: EmbeddingSpace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (first,) = put(collection, space, "a", "The lamp burns oil.")
        read: list[int] = []
        monkeypatch.setattr(
            postings,
            "_read",
            lambda cursor, ids, length, was=postings._read: read.extend(ids) or was(cursor, ids, length),
        )
        assert self.search(collection, space, "lamp").tolist() == [first]
        assert self.search(collection, space, "lamp").tolist() == [first]
        assert len(read) == 1
        assert held_postings.size_bytes == HELD_BYTES
        (second,) = put(collection, space, "b", "A lamp, a lamp.")
        assert self.search(collection, space, "lamp").tolist() == [second, first]
        assert len(read) == 2
        remove(collection, "b")
        assert self.search(collection, space, "lamp oil").tolist() == [first]
        assert held_postings.size_bytes == 2 * HELD_BYTES

    def test_the_last_that_were_used_are_kept_when_there_is_no_room_for_more(
        self, collection: Collection, space: EmbeddingSpace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(postings, "_room_bytes", lambda: 4 * BYTES_PER_POSTING)
        monkeypatch.setattr(postings, "_OVERHEAD_BYTES", 0)
        ids = [put(collection, space, name, f"A lamp of {name}.")[0] for name in ("brass", "glass")]
        for word, found in (("lamp", ids), ("brass", ids[:1]), ("glass", ids[1:]), ("lamp", ids), ("oak", [])):
            assert self.search(collection, space, word).tolist() == found
            assert held_postings.size_bytes <= 4 * BYTES_PER_POSTING
        # Three for one query are more than half of the room: PostgreSQL adds them up.
        before = held_postings.size_bytes
        assert self.search(collection, space, "lamp glass").tolist() == [ids[1], ids[0]]
        assert held_postings.size_bytes == before

    def test_what_was_read_for_a_state_that_has_passed_is_not_kept(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        put(collection, space, "a", "The lamp burns oil.")
        before = snapshot_of(collection, space)
        put(collection, space, "b", "A lamp.")
        now = snapshot_of(collection, space)
        with hot_cursor() as cursor:
            term_ids = read_query(cursor, now, "lamp").unique_ids.tolist()
            held_postings.of(cursor, now, term_ids, 3.0)
            held_postings._keep(collection.id, before.generation, {term_ids[0]: of({1: 1})})
            (kept,) = held_postings.of(cursor, now, term_ids, 3.0)
        assert len(kept.chunk_ids) == 2
