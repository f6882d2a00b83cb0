"""The union of what the retrievers found, with everything that features are computed from.

One round trip, for what this process does not remember of the passages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from django.conf import settings

from rag.pipeline import passages
from rag.pipeline.database import HotCursor, sent_vector
from rag.pipeline.passages import Passage
from rag.pipeline.resident import resident
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Candidates, Float32Array, Int32Array, Int64Array

NO_VECTOR_DISTANCE = 1.0
"""Cosine distance of a chunk that has no vector in the space: neither like nor unlike the query."""

_READ = """
    SELECT chunk.id, chunk.document_id, chunk.title_length, chunk.tokens, vector_send(vector.embedding)
    FROM rag_chunk AS chunk
    LEFT JOIN doc_embeddings AS vector ON vector.chunk_id = chunk.id AND vector.space_id = %(space_id)s
    WHERE chunk.id = ANY(%(chunk_ids)s)
"""


def read_candidates(
    cursor: HotCursor, snapshot: PipelineSnapshot, dense: Int64Array, lexical: Int64Array, query_embedding: Float32Array
) -> Candidates:
    """Candidates in ascending chunk id. A chunk that is known to have been removed since it was found is left out."""
    union = np.union1d(dense, lexical)
    held = resident.at(snapshot)
    gathered = held.gather(union) if held is not None else None
    if gathered is not None:
        return Candidates(
            chunk_ids=union,
            document_ids=gathered.document_ids,
            distances=np.clip(1.0 - gathered.embeddings @ query_embedding, 0.0, 2.0).astype(np.float32),
            dense_ranks=_ranks(union, dense),
            lexical_ranks=_ranks(union, lexical),
            tokens=gathered.tokens,
            offsets=gathered.offsets,
            title_lengths=gathered.title_lengths,
            embeddings=gathered.embeddings,
            query_embedding=query_embedding,
        )
    wanted: list[int] = union.tolist()
    known = _passages(cursor, snapshot, wanted)
    chunk_ids = np.array([chunk_id for chunk_id in wanted if chunk_id in known], dtype=np.int64)
    found = [known[chunk_id] for chunk_id in chunk_ids.tolist()]
    without = np.zeros(snapshot.space.dimension, dtype=np.float32)
    vectors = [without if passage.embedding is None else passage.embedding for passage in found]
    embeddings = np.concatenate(vectors).reshape(len(found), -1) if found else without[None][:0]
    has_vector = np.array([passage.embedding is not None for passage in found], dtype=bool)
    distances = np.where(has_vector, 1.0 - embeddings @ query_embedding, NO_VECTOR_DISTANCE)
    tokens = [passage.tokens for passage in found]
    return Candidates(
        chunk_ids=chunk_ids,
        document_ids=np.array([passage.document_id for passage in found], dtype=np.int64),
        distances=np.clip(distances, 0.0, 2.0).astype(np.float32),
        dense_ranks=_ranks(chunk_ids, dense),
        lexical_ranks=_ranks(chunk_ids, lexical),
        tokens=np.concatenate([np.empty(0, dtype=np.int32), *tokens]),
        offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        title_lengths=np.array([passage.title_length for passage in found], dtype=np.int32),
        embeddings=embeddings,
        query_embedding=query_embedding,
    )


def _passages(cursor: HotCursor, snapshot: PipelineSnapshot, chunk_ids: Sequence[int]) -> dict[int, Passage]:
    """What there is of these chunks, by id: from memory, else from the database."""
    # A retriever outside of PostgreSQL may find what is gone: only the database knows.
    capacity_bytes = settings.RAG_PASSAGE_MEMORY_MB * 2**20 if snapshot.retrieval_mode == "pgvector" else 0
    found = passages.memory.recall(snapshot.space.id, chunk_ids, capacity_bytes) if capacity_bytes else {}
    missing = [chunk_id for chunk_id in chunk_ids if chunk_id not in found]
    if missing:
        read = _read(cursor, snapshot, missing)
        if capacity_bytes:
            passages.memory.keep(snapshot.space.id, read, capacity_bytes)
        found |= read
    return found


def _read(cursor: HotCursor, snapshot: PipelineSnapshot, chunk_ids: Sequence[int]) -> dict[int, Passage]:
    rows = cursor.rows(_READ, {"space_id": snapshot.space.id, "chunk_ids": chunk_ids})
    return {
        row[0]: Passage(
            document_id=row[1],
            title_length=row[2],
            tokens=np.frombuffer(row[3], dtype="<i4").astype(np.int32),
            embedding=None if row[4] is None else sent_vector(row[4]),
        )
        for row in rows
    }


def _ranks(chunk_ids: Int64Array, found: Int64Array) -> Int32Array:
    """For each of ``chunk_ids`` its 1-based place in ``found``, 0 when it isn't there."""
    ranks = np.zeros(len(chunk_ids), dtype=np.int32)
    place = np.searchsorted(chunk_ids, found)
    # What was removed since it was found has no place.
    here = place < len(chunk_ids)
    here[here] = chunk_ids[place[here]] == found[here]
    ranks[place[here]] = np.flatnonzero(here) + 1
    return ranks
