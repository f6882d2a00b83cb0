"""The postings of the terms that were searched for, held in this process's memory as arrays, and ranked there.

PostgreSQL stays the only source. Adding up 60,000 postings takes it 40 ms, and an array of them one: what takes the
time is to hand each row from node to node. So a term's postings are read as two arrays, one statement for all terms of
a query that are not held, and kept until the collection changes or others need the room: `RAG_RESIDENT_POSTINGS_MB`.

Only for searches that may see everything: a filter or an access list is PostgreSQL's to apply.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from django.conf import settings

from rag.pipeline.best import best
from rag.pipeline.bm25 import BM25_B, BM25_K1, look_up, starts
from rag.pipeline.database import HotCursor
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float64Array, Int64Array

BYTES_PER_POSTING = 16
MOST_OF_THE_ROOM = 0.5
"""Share of the room that one query may take: more would have every query throw out what the one before it read."""

LEADING = 256
"""Impacts of a term that are kept in order. Of more candidates than that, less is known from the start."""

FEW_POSTINGS = 4_000
"""Fewer are added up sooner than the promising ones are chosen."""

_OVERHEAD_BYTES = 600
"""Of a term besides its numbers: three arrays, an object and its place in a dictionary."""

_ROUNDING = 1e-9
"""Of sums that are made in different orders."""

_READ = """
    SELECT term.id, array_send(held.chunk_ids), array_send(held.sizes)
    FROM unnest(%(term_ids)s::integer[]) AS term (id), LATERAL (
        SELECT array_agg(chunk_id) AS chunk_ids,
               array_agg((chunk_length::bigint << 16) | frequency::bigint) AS sizes
        FROM rag_posting WHERE term_id = term.id
    ) AS held
"""
_FREQUENCY_BITS = 16
"""A frequency is a smallint, and not negative."""

_SENT = np.dtype([("size", ">i4"), ("value", ">i8")])
"""An element of what `array_send` writes of a bigint[] without nulls."""
_SENT_HEADER_BYTES = 20
"""Before the elements: dimensions, whether there are nulls, the type; length and lower bound of the one dimension."""


@dataclass(frozen=True, slots=True)
class TermPostings:
    """The chunks that hold a term, by ascending id, and what it adds to the BM25 of each, for a weight of 1.

    chunk_ids: int64, impacts: float64; shape (n,). leading: the `LEADING` highest impacts, or all, highest first.
    """

    chunk_ids: Int64Array
    impacts: Float64Array
    leading: Float64Array

    @classmethod
    def of(
        cls, chunk_ids: Int64Array, frequencies: Int64Array, lengths: Int64Array, average_length: float
    ) -> TermPostings:
        """The formula of `rag.pipeline.lexical`: f · (k1 + 1) / (f + k1 · (1 − b + b · length / average length))."""
        norms = BM25_K1 * (1 - BM25_B + BM25_B * lengths / (average_length or 1.0))
        impacts = frequencies * (BM25_K1 + 1) / (frequencies + norms)
        if np.any(chunk_ids[1:] < chunk_ids[:-1]):
            order = np.argsort(chunk_ids)
            chunk_ids, impacts = chunk_ids[order], impacts[order]
        return cls(chunk_ids, impacts, impacts[best(impacts, LEADING)])

    @property
    def size_bytes(self) -> int:
        return self.chunk_ids.nbytes + self.impacts.nbytes + self.leading.nbytes + _OVERHEAD_BYTES

    def at_most(self) -> float:
        """The highest impact; 0 without any."""
        return float(self.leading[0]) if len(self.leading) else 0.0

    def reached_by(self, count: int) -> float:
        """The highest impact that so many chunks reach; 0 where that is not known."""
        return float(self.leading[count - 1]) if 0 < count <= len(self.leading) else 0.0


def rank(postings: Sequence[TermPostings], weights: Float64Array, depth: int) -> Int64Array:
    """Ids of the ``depth`` chunks with the highest Σ weight · impact, int64, best first; ties by id."""
    if sum(len(one.chunk_ids) for one in postings) >= FEW_POSTINGS:
        found = _rank_promising(postings, weights, depth)
        if found is not None:
            return found
    chunk_ids = np.concatenate([one.chunk_ids for one in postings])
    scores = np.concatenate([one.impacts * weight for one, weight in zip(postings, weights, strict=True)])
    if len(postings) > 1:
        # Each term's ids ascend already, and merging such runs is what a stable sort does quickly.
        order = np.argsort(chunk_ids, kind="stable")
        chunk_ids, scores = chunk_ids[order], scores[order]
        begins = starts(chunk_ids)  # none, where the last chunk of every term has gone since they were counted
        chunk_ids, scores = chunk_ids[begins], np.add.reduceat(scores, begins)
    # Ids ascend with places.
    return chunk_ids[best(scores, depth)]


def _rank_promising(postings: Sequence[TermPostings], weights: Float64Array, depth: int) -> Int64Array | None:
    """As `rank`, adding up only chunks that can be among the best; ``None`` where most can.

    Terms are taken from the one that can add most. A chunk whose first term is this one gets at most its impact and
    what later terms can add; once ``depth`` chunks have more, it need not be looked at. How many reach how much by one
    term alone is known from the start. That is the bound of MaxScore (see `rag.pipeline.lexical`), chunk by chunk.
    """
    at_most = weights * [one.at_most() for one in postings]
    order = np.argsort(-at_most)
    later = at_most.sum() - np.cumsum(at_most[order])
    least = max(weight * one.reached_by(depth) for one, weight in zip(postings, weights, strict=True))
    # To look a chunk up in each term takes about as long as to add up a posting of each.
    affordable = sum(len(one.chunk_ids) for one in postings) // len(postings)
    chunk_ids, scores = np.empty(0, dtype=np.int64), np.empty(0)
    for number, those_later in zip(order.tolist(), later.tolist(), strict=True):
        if at_most[number] + those_later < least - _ROUNDING:
            break
        one = postings[number]
        promising = one.chunk_ids[one.impacts * weights[number] >= least - those_later - _ROUNDING]
        if len(chunk_ids) + len(promising) > affordable:
            return None
        added = np.setdiff1d(promising, chunk_ids, assume_unique=True)
        chunk_ids = np.concatenate([chunk_ids, added])
        scores = np.concatenate([scores, _scores(postings, weights, added)])
        if len(scores) >= depth:
            least = max(least, float(np.partition(scores, len(scores) - depth)[len(scores) - depth]))
    ascending = np.argsort(chunk_ids)
    chunk_ids, scores = chunk_ids[ascending], scores[ascending]
    return chunk_ids[best(scores, depth)]


def _scores(postings: Sequence[TermPostings], weights: Float64Array, chunk_ids: Int64Array) -> Float64Array:
    """Σ weight · impact of each chunk, float64, added up in the order of the postings."""
    scores = np.zeros(len(chunk_ids))
    for one, weight in zip(postings, weights, strict=True):
        position, found = look_up(chunk_ids, one.chunk_ids)
        scores[found] += one.impacts[position[found]] * weight
    return scores


class HeldPostings:
    """Of this process. For any thread."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[int, int], TermPostings] = OrderedDict()
        """By collection and term, the one that was not used for longest first."""
        self._generations: dict[int, int] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def has_room(self, count: int) -> bool:
        """Whether a query of so many postings may be answered from here."""
        return 0 < count * BYTES_PER_POSTING <= _room_bytes() * MOST_OF_THE_ROOM

    def of(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, term_ids: Sequence[int], average_length: float
    ) -> list[TermPostings]:
        """The postings of terms, in their order.

        What is read may be newer than the snapshot's generation, under which it is kept, never older.
        """
        collection_id = snapshot.collection_id
        with self._lock:
            if self._generations.get(collection_id) != snapshot.generation:
                self._forget_collection(collection_id)
                self._generations[collection_id] = snapshot.generation
            found = {term: self._held[collection_id, term] for term in term_ids if (collection_id, term) in self._held}
            for term in found:
                self._held.move_to_end((collection_id, term))
        missing = [term for term in term_ids if term not in found]
        if missing:
            read = _read(cursor, missing, average_length)
            found |= read
            self._keep(collection_id, snapshot.generation, read)
        return [found[term] for term in term_ids]

    def forget(self) -> None:
        with self._lock:
            self._held.clear()
            self._generations.clear()
            self._bytes = 0

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def _keep(self, collection_id: int, generation: int, read: dict[int, TermPostings]) -> None:
        with self._lock:
            if self._generations.get(collection_id) != generation:
                return
            for term, one in read.items():
                before = self._held.pop((collection_id, term), None)
                self._held[collection_id, term] = one
                self._bytes += one.size_bytes - (before.size_bytes if before else 0)
            while self._bytes > _room_bytes():
                _, oldest = self._held.popitem(last=False)
                self._bytes -= oldest.size_bytes

    def _forget_collection(self, collection_id: int) -> None:
        for key in [key for key in self._held if key[0] == collection_id]:
            self._bytes -= self._held.pop(key).size_bytes


def _room_bytes() -> int:
    return int(settings.RAG_RESIDENT_POSTINGS_MB) << 20


def _read(cursor: HotCursor, term_ids: list[int], average_length: float) -> dict[int, TermPostings]:
    found = {}
    for term_id, sent_ids, sent_sizes in cursor.rows(_READ, {"term_ids": term_ids}):
        chunk_ids, sizes = _numbers(sent_ids), _numbers(sent_sizes)
        frequencies, lengths = sizes & ((1 << _FREQUENCY_BITS) - 1), sizes >> _FREQUENCY_BITS
        found[term_id] = TermPostings.of(chunk_ids, frequencies, lengths, average_length)
    return found


def _numbers(sent: bytes | None) -> Int64Array:
    """int64, shape (n,). Nothing was sent of a term whose last chunk is gone since it was counted."""
    if sent is None:
        return np.empty(0, dtype=np.int64)
    return np.frombuffer(sent, dtype=_SENT, offset=_SENT_HEADER_BYTES)["value"].astype(np.int64)


held_postings = HeldPostings()
