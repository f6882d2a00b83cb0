"""Dense retrieval: cosine distance in pgvector, over every vector of the collection's space."""

from __future__ import annotations

import numpy as np

from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array, Int64Array

_EVERYTHING = """
    SELECT chunk_id
    FROM doc_embeddings
    WHERE collection_id = %(collection_id)s AND space_id = %(space_id)s
    ORDER BY embedding <=> %(query)s, chunk_id
    LIMIT %(depth)s
"""

_ELIGIBLE = """
    WITH {eligible}
    SELECT chunk_id
    FROM eligible JOIN doc_embeddings USING (chunk_id)
    WHERE space_id = %(space_id)s
    ORDER BY embedding <=> %(query)s, chunk_id
    LIMIT %(depth)s
"""


def retrieve_dense(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query_embedding: Float32Array
) -> Int64Array:
    """Chunk ids, int64, best first, at most ``snapshot.candidate_depth``; ties by id.

    A query embedding of zeros has no direction: nothing is near to it.
    """
    if not query_embedding.any():
        return np.empty(0, dtype=np.int64)
    statement = _EVERYTHING if eligibility.is_everything else _ELIGIBLE.format(eligible=eligibility.condition)
    rows = cursor.rows(
        statement,
        {
            "collection_id": snapshot.collection_id,
            "space_id": snapshot.space.id,
            "query": query_embedding,
            "depth": snapshot.candidate_depth,
            **eligibility.parameters,
        },
    )
    return np.array([row[0] for row in rows], dtype=np.int64)
