"""The union of what the retrievers found, with everything that features are computed from: one round trip."""

from __future__ import annotations

import numpy as np

from rag.pipeline.database import HotCursor
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Candidates, Float32Array, Int32Array, Int64Array

NO_VECTOR_DISTANCE = 1.0
"""Cosine distance of a chunk that has no vector in the space: neither like nor unlike the query."""

SENT_HEADER_BYTES = 4
"""What `vector_send` writes before the numbers, which are float4 in network order: the dimension and a spare short."""

_READ = """
    SELECT chunk.id, chunk.document_id, chunk.title_length, chunk.tokens, vector_send(vector.embedding)
    FROM rag_chunk AS chunk
    LEFT JOIN doc_embeddings AS vector ON vector.chunk_id = chunk.id AND vector.space_id = %(space_id)s
    WHERE chunk.id = ANY(%(chunk_ids)s)
    ORDER BY chunk.id
"""


def read_candidates(
    cursor: HotCursor, snapshot: PipelineSnapshot, dense: Int64Array, lexical: Int64Array, query_embedding: Float32Array
) -> Candidates:
    """Candidates in ascending chunk id. A chunk that was removed since it was found is left out."""
    rows = cursor.rows(_READ, {"space_id": snapshot.space.id, "chunk_ids": np.union1d(dense, lexical).tolist()})
    chunk_ids = np.array([row[0] for row in rows], dtype=np.int64)
    tokens = [np.frombuffer(row[3], dtype="<i4") for row in rows]
    has_vector = np.array([row[4] is not None for row in rows], dtype=bool)
    embeddings = np.zeros((len(rows), snapshot.space.dimension), dtype=np.float32)
    # All vectors in one conversion: one by one it costs more than to read them.
    sent = np.frombuffer(b"".join(row[4] for row in rows if row[4] is not None), dtype=np.uint8)
    if len(sent):
        numbers = np.ascontiguousarray(sent.reshape(int(has_vector.sum()), -1)[:, SENT_HEADER_BYTES:])
        embeddings[has_vector] = numbers.view(">f4")
    distances = np.where(has_vector, 1.0 - embeddings @ query_embedding, NO_VECTOR_DISTANCE)
    return Candidates(
        chunk_ids=chunk_ids,
        document_ids=np.array([row[1] for row in rows], dtype=np.int64),
        distances=np.clip(distances, 0.0, 2.0).astype(np.float32),
        dense_ranks=_ranks(chunk_ids, dense),
        lexical_ranks=_ranks(chunk_ids, lexical),
        tokens=np.concatenate([np.empty(0, dtype="<i4"), *tokens]).astype(np.int32),
        offsets=np.cumsum([0, *map(len, tokens)], dtype=np.int64),
        title_lengths=np.array([row[2] for row in rows], dtype=np.int32),
        embeddings=embeddings,
        query_embedding=query_embedding,
    )


def _ranks(chunk_ids: Int64Array, found: Int64Array) -> Int32Array:
    """For each of ``chunk_ids`` its 1-based place in ``found``, 0 when it isn't there."""
    place = {chunk_id: rank for rank, chunk_id in enumerate(found.tolist(), start=1)}
    return np.array([place.get(chunk_id, 0) for chunk_id in chunk_ids.tolist()], dtype=np.int32)
