"""Small collections, held in this process's memory as arrays: here their vectors are compared, exactly, and their words
counted and ranked by.

PostgreSQL stays the only source. A collection is read by one statement together with its generation and used for
searches of that generation alone; while documents change, PostgreSQL is asked as if nothing was held, and the
collection is read again in the background. The nearest are the same either way but for the rounding of single
precision: the passages and their order are tested against pgvector's.

Held are collections that are searched exactly, of up to ``RAG_RESIDENT_CHUNKS`` chunks that all have a vector, and
only searches that may see everything use them: a filter or an access list is PostgreSQL's to apply.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from django.conf import settings
from django.db import connection

from rag.pipeline.best import best
from rag.pipeline.bm25 import ranges
from rag.pipeline.database import HotCursor, hot_cursor, sent_vector
from rag.pipeline.eligible import Eligibility
from rag.pipeline.inverted import InvertedIndex
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array, Int32Array, Int64Array

logger = logging.getLogger(__name__)

KEPT_S = 3600.0
"""How long a collection that nobody asks for is held."""

PAUSE = 10.0
"""Between two readings of a collection at least so many times what the last one took: one that is written to all the
time must not keep a core busy with reading it."""

_TERM_BYTES = 120
"""Of a lexeme, its id and their place in a dictionary: measured."""

DECIMALS = 6
"""Cosines that agree to so many places are equal, and their chunks' ids decide: more is the rounding of their sums."""

_READ = """
    SELECT collection.generation, chunk.id, chunk.document_id, chunk.title_length, chunk.tokens,
           vector_send(vector.embedding)
    FROM rag_collection AS collection
    JOIN rag_chunk AS chunk ON chunk.collection_id = collection.id
    LEFT JOIN doc_embeddings AS vector ON vector.chunk_id = chunk.id AND vector.space_id = %(space_id)s
    WHERE collection.id = %(collection_id)s
    ORDER BY chunk.id LIMIT %(limit)s
"""
"""A single statement sees a single state of the database: the generation is that of all its rows."""

_READ_TERMS = "SELECT term, id FROM rag_lexicalterm WHERE id = ANY(%(term_ids)s)"
"""Those of the chunks that were read, which stay as long as the collection; of words of the past there may be more."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Some chunks of a `ResidentCollection`, the arrays as `rag.pipeline.types.Candidates` has them."""

    document_ids: Int64Array
    title_lengths: Int32Array
    tokens: Int32Array
    offsets: Int64Array
    embeddings: Float32Array


@dataclass(frozen=True, slots=True)
class ResidentCollection:
    """All chunks of a collection at one generation, by ascending id.

    chunk_ids, document_ids: int64, shape (n,); title_lengths: int32, shape (n,); embeddings: float32, shape
    (n, dimension), unit length; tokens: int32, chunk i's being ``tokens[offsets[i]:offsets[i + 1]]``. terms: made of
    the tokens, chunks by their places. term_ids: by lexeme; what is not there is in no chunk.
    """

    generation: int
    chunk_ids: Int64Array
    document_ids: Int64Array
    title_lengths: Int32Array
    tokens: Int32Array
    offsets: Int64Array
    embeddings: Float32Array
    terms: InvertedIndex
    term_ids: dict[str, int]

    def nearest(self, query_embedding: Float32Array, depth: int) -> Int64Array:
        """Ids of the ``depth`` chunks with the highest cosine, int64, best first; ties by id."""
        cosines = (self.embeddings @ query_embedding).round(DECIMALS)
        # Ids ascend with places.
        return self.chunk_ids[best(cosines, depth)]

    def gather(self, chunk_ids: Int64Array) -> Gathered | None:
        """What is held of chunks, ascending ids; ``None`` when one of them is not here: it is newer."""
        if not len(self.chunk_ids):
            return None
        places = np.minimum(np.searchsorted(self.chunk_ids, chunk_ids), len(self.chunk_ids) - 1)
        if not np.array_equal(self.chunk_ids[places], chunk_ids):
            return None
        starts, lengths = self.offsets[places], self.offsets[places + 1] - self.offsets[places]
        offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
        return Gathered(
            document_ids=self.document_ids[places],
            title_lengths=self.title_lengths[places],
            tokens=self.tokens[ranges(starts, lengths)],
            offsets=offsets,
            embeddings=self.embeddings[places],
        )

    @property
    def size_bytes(self) -> int:
        arrays = (self.chunk_ids, self.document_ids, self.title_lengths, self.tokens, self.offsets, self.embeddings)
        return sum(array.nbytes for array in arrays) + self.terms.size_bytes + len(self.term_ids) * _TERM_BYTES


@dataclass(slots=True)
class _Held:
    """What is known of a collection in a space; ``collection`` is ``None`` when it can't be held."""

    collection: ResidentCollection | None
    generation: int
    next_reading: float
    used: float = field(default_factory=time.monotonic)


class ResidentCollections:
    """Of this process. For any thread."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, int], _Held] = {}
        self._reading: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self._reads_by_itself = False

    def start(self) -> None:
        """Read what searches ask for by itself, from now on: for processes that live long."""
        self._reads_by_itself = True

    def at(self, snapshot: PipelineSnapshot) -> ResidentCollection | None:
        """The collection at the snapshot's generation, if it is held."""
        held = self._held.get((snapshot.collection_id, snapshot.space.id))
        if held is None or held.generation != snapshot.generation or snapshot.retrieval_mode != "pgvector":
            return None
        held.used = time.monotonic()
        return held.collection

    def find(self, snapshot: PipelineSnapshot, eligibility: Eligibility) -> ResidentCollection | None:
        """As `at`, if this search may be answered by it. When it is not held, it is read for later searches."""
        if snapshot.retrieval_mode != "pgvector" or not snapshot.ann.is_exact or not eligibility.is_everything:
            return None
        found = self.at(snapshot)
        if found is None and self._reads_by_itself and settings.RAG_RESIDENT_CHUNKS:
            self._read_soon(snapshot)
        return found

    def load(self, snapshot: PipelineSnapshot) -> ResidentCollection | None:
        """Read the collection now, on this thread; ``None`` when it is not one to be held."""
        started = time.monotonic()
        with hot_cursor() as cursor:
            generation, collection = _read_whole(cursor, snapshot)
        took_s = time.monotonic() - started
        with self._lock:
            for key, held in list(self._held.items()):
                if started - held.used > KEPT_S:
                    del self._held[key]
            self._held[snapshot.collection_id, snapshot.space.id] = _Held(
                collection, generation, time.monotonic() + PAUSE * took_s
            )
        return collection

    def forget(self) -> None:
        with self._lock:
            self._held.clear()

    def _read_soon(self, snapshot: PipelineSnapshot) -> None:
        key = snapshot.collection_id, snapshot.space.id
        held = self._held.get(key)
        if held is not None and (held.generation == snapshot.generation or time.monotonic() < held.next_reading):
            return
        with self._lock:
            if key in self._reading:
                return
            self._reading.add(key)
        threading.Thread(target=self._read, args=(key, snapshot), name="resident-collection", daemon=True).start()

    def _read(self, key: tuple[int, int], snapshot: PipelineSnapshot) -> None:
        try:
            self.load(snapshot)
        except Exception:
            # Nothing depends on it: PostgreSQL answers as before, and the next search tries again.
            logger.warning("The collection '%s' was not read into memory", snapshot.collection, exc_info=True)
        finally:
            with self._lock:
                self._reading.discard(key)
            connection.close()


def _read_whole(cursor: HotCursor, snapshot: PipelineSnapshot) -> tuple[int, ResidentCollection | None]:
    """The present generation, and what is there of it. The generation of an empty collection does not matter: −1."""
    most = settings.RAG_RESIDENT_CHUNKS
    parameters = {"collection_id": snapshot.collection_id, "space_id": snapshot.space.id, "limit": most + 1}
    generation = -1
    ids: list[tuple[int, int, int]] = []
    tokens: list[Int32Array] = []
    embeddings: list[Float32Array] = []
    for generation, chunk_id, document_id, title_length, sent_tokens, sent_embedding in cursor.stream(
        _READ, parameters
    ):
        if sent_embedding is None or len(ids) == most:
            return generation, None
        ids.append((chunk_id, document_id, title_length))
        tokens.append(np.frombuffer(sent_tokens, dtype="<i4").astype(np.int32))
        embeddings.append(sent_vector(sent_embedding))
    if not ids:
        return generation, None
    chunk_ids, document_ids, title_lengths = np.array(ids, dtype=np.int64).T.copy()
    all_tokens = np.concatenate(tokens)
    offsets = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum([len(one) for one in tokens])])
    terms = InvertedIndex.of(all_tokens, offsets)
    return generation, ResidentCollection(
        generation=generation,
        chunk_ids=chunk_ids,
        document_ids=document_ids,
        title_lengths=title_lengths.astype(np.int32),
        tokens=all_tokens,
        offsets=offsets,
        embeddings=np.stack(embeddings),
        terms=terms,
        term_ids=dict(cursor.stream(_READ_TERMS, {"term_ids": terms.term_ids.tolist()})),
    )


resident = ResidentCollections()
