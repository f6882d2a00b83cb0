"""The memory of judgements, read from the database: which judged queries are near, and what was relevant to them."""

from __future__ import annotations

import numpy as np

from rag.pipeline.database import HotCursor
from rag.pipeline.memory import NEAREST, NOTHING, Memory
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array

# All judged queries of a collection are compared: they were typed or judged by people, so they are thousands at most.
_READ = """
    WITH nearest AS (
        SELECT query.id, 1 - (vector.embedding <=> %(query)s) AS similarity
        FROM rag_judgedquery AS query JOIN rag_judgedqueryvector AS vector ON vector.judged_query_id = query.id
        WHERE query.collection_id = %(collection_id)s AND vector.space_id = %(space_id)s
          AND query.query_id IS DISTINCT FROM %(left_out)s::text
        ORDER BY vector.embedding <=> %(query)s, query.id
        LIMIT %(nearest)s
    )
    SELECT document.id, nearest.similarity::float4
    FROM nearest
    JOIN rag_judgement AS judgement ON judgement.query_id = nearest.id AND judgement.grade > 0
    JOIN rag_document AS document
      ON document.collection_id = %(collection_id)s AND document.document_id = judgement.document_id
"""


def read_memory(
    cursor: HotCursor, snapshot: PipelineSnapshot, query_embedding: Float32Array, left_out: str | None = None
) -> Memory:
    """What the collection remembers near a query; nothing where it doesn't, or without the query's embedding.

    ``left_out``: id of the judged query that is being evaluated, whose own judgements must not answer it.
    """
    if not snapshot.remembers_judgements or not query_embedding.any():
        return NOTHING
    rows = cursor.rows(
        _READ,
        {
            "collection_id": snapshot.collection_id,
            "space_id": snapshot.space.id,
            "query": query_embedding,
            "left_out": left_out,
            "nearest": NEAREST,
        },
    )
    return Memory(
        document_ids=np.array([row[0] for row in rows], dtype=np.int64),
        similarities=np.array([row[1] for row in rows], dtype=np.float32),
    )
