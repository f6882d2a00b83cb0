"""Dense retrieval: cosine distance in pgvector, exact or by the vector index that is live; of a small collection, in
this process's memory (`rag.pipeline.resident`).

What comes back is never silently short. An index scan looks at a limited number of rows, so under a filter it can run
dry although more match. Hence a filter that lets few through is searched exactly among those; under a wider one the
index goes on looking (``iterative_scan``); and when fewer come back than were asked for, the search is made again
exactly.
"""

from __future__ import annotations

import math

import numpy as np
from django.db import transaction

from rag.pipeline.ann import AnnPlan, distance, predicate
from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.resident import resident
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

# Eligible chunks are counted no further than is worth it; where they are few, they are searched in the same round trip.
_ELIGIBLE_IF_FEW = """
    WITH {eligible}, counted AS (SELECT count(*) AS number FROM eligible)
    SELECT
        number <= %(few)s,
        ARRAY(
            SELECT chunk_id
            FROM eligible JOIN doc_embeddings USING (chunk_id)
            WHERE number <= %(few)s AND space_id = %(space_id)s
            ORDER BY embedding <=> %(query)s, chunk_id
            LIMIT %(depth)s
        )
    FROM counted
"""

# The inner query is ordered by the index alone, so that it is used; the outer one puts right what a coarser precision
# or a relaxed order got wrong, and breaks ties. The limits are literals: behind a parameter the planner takes a tenth
# of all rows for asked.
_BY_INDEX = """
    SELECT chunk_id
    FROM (
        SELECT chunk_id, embedding FROM doc_embeddings
        WHERE {rows} {only}
        ORDER BY {distance} LIMIT {inner_limit:d}
    ) AS near
    ORDER BY embedding <=> %(query)s, chunk_id
    LIMIT {depth:d}
"""

_THE_INDEX_ALONE = {"enable_sort": "off", "jit": "off"}
"""Only the index gives an order without a sort. Else the planner reads and sorts all rows of a smaller table: at 10,000
vectors and an ``ef_search`` of 500 it takes the index for a third dearer than that, but it is five times as quick. The
last sort, of a hundred rows, is made all the same; up to PostgreSQL 17 its price would have the plan compiled."""

_SET = "SELECT set_config(name, value, true) FROM unnest(%(names)s::text[], %(values)s::text[]) AS given (name, value)"

FEWEST_BY_INDEX = 1000
_FILTERED_SURPLUS = 2
_ROWS_PER_ROOT = 30.0


def few(vectors: int) -> int:
    """Up to how many eligible chunks are searched one by one rather than by the index.

    One by one costs a time in proportion to their number n; the index has to look at depth · N / n rows. The two are
    equal at some multiple of the square root of N: measured at 10,000, 100,000 and 300,000 vectors, at 32 to 37 of
    them. A few less, as a search that goes by the index has counted so many for nothing.
    """
    return max(FEWEST_BY_INDEX, int(_ROWS_PER_ROOT * math.sqrt(vectors)))


def retrieve_dense(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query_embedding: Float32Array
) -> Int64Array:
    """Chunk ids, int64, best first, at most ``snapshot.candidate_depth``; ties by id.

    A query embedding of zeros has no direction: nothing is near to it.
    """
    if not query_embedding.any():
        return np.empty(0, dtype=np.int64)
    parameters = {
        "collection_id": snapshot.collection_id,
        "space_id": snapshot.space.id,
        "query": query_embedding,
        "depth": snapshot.candidate_depth,
        "few": max(few(snapshot.ann.vectors), snapshot.candidate_depth),
        **eligibility.parameters,
    }
    if snapshot.ann.is_exact:
        held = resident.find(snapshot, eligibility)
        if held is not None:
            return held.nearest(query_embedding, snapshot.candidate_depth)
        return _exact(cursor, eligibility, parameters)
    if not eligibility.is_everything:
        ((are_few, found),) = cursor.rows(_ELIGIBLE_IF_FEW.format(eligible=eligibility.up_to("few")), parameters)
        if are_few:
            return np.array(found, dtype=np.int64)
    by_index = _by_index(cursor, snapshot, snapshot.ann, eligibility, parameters)
    return by_index if len(by_index) == snapshot.candidate_depth else _exact(cursor, eligibility, parameters)


def _exact(cursor: HotCursor, eligibility: Eligibility, parameters: dict[str, object]) -> Int64Array:
    statement = _EVERYTHING if eligibility.is_everything else _ELIGIBLE.format(eligible=eligibility.condition)
    return _ids(cursor.rows(statement, parameters))


def _by_index(
    cursor: HotCursor,
    snapshot: PipelineSnapshot,
    plan: AnnPlan,
    eligibility: Eligibility,
    parameters: dict[str, object],
) -> Int64Array:
    # What a filter lets through comes in no strict order, so more of it is looked at than is kept.
    asked_for = snapshot.candidate_depth * (1 if eligibility.is_everything else _FILTERED_SURPLUS)
    given = plan.settings(asked_for) | _THE_INDEX_ALONE
    statement = _BY_INDEX.format(
        rows=predicate(snapshot.collection_id, snapshot.space.id, plan.marker),
        only="" if eligibility.is_everything else f"AND {eligibility.test}",
        distance=distance(plan.precision, snapshot.space.dimension),
        inner_limit=plan.inner_limit(asked_for),
        depth=snapshot.candidate_depth,
    )
    with transaction.atomic():
        cursor.rows(_SET, {"names": list(given), "values": list(given.values())})
        return _ids(cursor.rows(statement, parameters))


def _ids(rows: list[tuple[int, ...]]) -> Int64Array:
    return np.array([row[0] for row in rows], dtype=np.int64)
