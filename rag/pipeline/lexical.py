"""Lexical retrieval: BM25 over the collection's postings, inside PostgreSQL.

The same formula as `rag.pipeline.bm25`. Document frequencies are counted from the postings themselves, and N and the
average length are sums of rows that writers only insert, so no counter is contended.
"""

from __future__ import annotations

import numpy as np

from rag.lexicon import encode_query
from rag.pipeline.bm25 import BM25_B, BM25_K1, inverse_document_frequency
from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import GAP, UNKNOWN, Int64Array, QueryTerms

_FREQUENCIES = """
    SELECT term_id, count(*) FROM rag_posting WHERE term_id = ANY(%(term_ids)s) GROUP BY term_id
"""

_READABLE_FREQUENCIES = """
    WITH {readable}
    SELECT term_id, count(*) FROM rag_posting JOIN eligible USING (chunk_id)
    WHERE term_id = ANY(%(term_ids)s) GROUP BY term_id
"""

_TOTALS = """
    SELECT coalesce(sum(chunks), 0)::bigint, coalesce(sum(tokens), 0)::bigint
    FROM rag_lexicaltotals WHERE collection_id = %(collection_id)s
"""

_READABLE_TOTALS = """
    WITH {readable}
    SELECT count(*), coalesce(sum(chunk.token_count), 0)::bigint
    FROM eligible JOIN rag_chunk AS chunk ON chunk.id = eligible.chunk_id
"""

_SCORES = """
    WITH {eligible} query (term_id, weight) AS (
        SELECT * FROM unnest(%(term_ids)s::integer[], %(weights)s::float8[])
    )
    SELECT chunk_id
    FROM query JOIN rag_posting AS posting USING (term_id) {join}
    GROUP BY chunk_id
    ORDER BY sum(
        weight * frequency * (%(k1)s::float8 + 1)
        / (frequency + %(k1)s::float8
           * (1 - %(b)s::float8 + %(b)s::float8 * chunk_length / %(average_length)s::float8))
    ) DESC, chunk_id
    LIMIT %(depth)s
"""


def read_query(cursor: HotCursor, snapshot: PipelineSnapshot, query: str) -> QueryTerms:
    """The query's terms as the collection's text configuration stems them, with their statistics.

    Only what the principal may read is counted: a score must not tell that a hidden document holds a word.
    """
    collection_id = snapshot.collection_id
    readable = Eligibility(snapshot.groups, {})
    term_ids = encode_query(
        cursor,
        query,
        collection_id=collection_id,
        configuration=snapshot.text_configuration,
        split_identifiers=snapshot.split_identifiers,
    )
    known = np.unique(term_ids[term_ids > GAP])
    frequencies, totals = _FREQUENCIES, _TOTALS
    if not readable.is_everything:
        frequencies, totals = (
            statement.format(readable=readable.condition) for statement in (_READABLE_FREQUENCIES, _READABLE_TOTALS)
        )
    parameters = {"collection_id": collection_id, "term_ids": known.tolist(), **readable.parameters}
    document_frequencies: dict[int, int] = dict(cursor.rows(frequencies, parameters)) if len(known) else {}
    # A term whose last posting is gone is as unknown as one that never was.
    term_ids[(term_ids > GAP) & ~np.isin(term_ids, list(document_frequencies))] = UNKNOWN
    ((chunk_count, token_count),) = cursor.rows(totals, parameters)
    return QueryTerms.from_positions(
        term_ids, document_frequencies, token_count / chunk_count if chunk_count else 0.0, chunk_count
    )


def retrieve_lexical(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, terms: QueryTerms
) -> Int64Array:
    """Chunk ids, int64, best BM25 first, at most ``snapshot.candidate_depth``; ties by id."""
    if not len(terms.unique_ids):
        return np.empty(0, dtype=np.int64)
    weights = terms.counts * inverse_document_frequency(terms.document_frequencies, terms.chunk_count)
    everything = eligibility.is_everything
    statement = _SCORES.format(
        eligible="" if everything else f"{eligibility.condition},",
        join="" if everything else "JOIN eligible USING (chunk_id)",
    )
    rows = cursor.rows(
        statement,
        {
            "collection_id": snapshot.collection_id,
            "term_ids": terms.unique_ids.tolist(),
            "weights": weights.tolist(),
            "average_length": terms.average_length or 1.0,
            "k1": BM25_K1,
            "b": BM25_B,
            "depth": snapshot.candidate_depth,
            **eligibility.parameters,
        },
    )
    return np.array([row[0] for row in rows], dtype=np.int64)
