"""Lexical retrieval: BM25 over the collection's postings, in memory where they fit, else inside PostgreSQL.

The same formula as `rag.pipeline.bm25`. Document frequencies are counted from the postings themselves, and N and the
average length are sums of rows that writers only insert, so no counter is contended. What was counted is remembered
until the collection changes.

Who may see everything is answered from the postings of a collection that is held (`rag.pipeline.resident`), else from
those that `rag.pipeline.postings` holds. For others PostgreSQL adds them up. Where the query's terms have many
postings, most are left unread, and the result is the same: MaxScore (Turtle and Flood, Query Evaluation: Strategies and
Optimizations, 1995). No term adds more than weight · (k1 + 1) to a score. Once the best ``depth`` chunks found by the
rarest terms all have a score above what the commonest terms can give together, a chunk that holds only those can't be
among them, so they are only looked up for the chunks that hold a rarer one.

The words of a query don't wait for its embedding: of a collection that is neither large nor held, a single statement
splits the query into terms, counts them and ranks by them, and PostgreSQL works on it while the query is embedded. It
takes three times as much of a processor as ranking by postings in memory, so it is left where searches under way leave
it no processor of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from rag.lexicon import lexical_text, query_lexemes, term_ids
from rag.pipeline.bm25 import BM25_B, BM25_K1, inverse_document_frequency
from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.postings import held_postings, rank
from rag.pipeline.processors import own_processors
from rag.pipeline.resident import resident
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import GAP, UNKNOWN, Float64Array, Int32Array, Int64Array, QueryTerms

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

_IMPACT = """
    weight * frequency * (%(k1)s::float8 + 1)
    / (frequency + %(k1)s::float8 * (1 - %(b)s::float8 + %(b)s::float8 * chunk_length / %(average_length)s::float8))
"""

_SCORES = f"""
    WITH {{eligible}} query (term_id, weight) AS (
        SELECT * FROM unnest(%(term_ids)s::integer[], %(weights)s::float8[])
    )
    SELECT chunk_id
    FROM query JOIN rag_posting AS posting USING (term_id) {{join}}
    GROUP BY chunk_id
    ORDER BY sum({_IMPACT}) DESC, chunk_id
    LIMIT %(depth)s
"""  # noqa: S608  (made of the constant above)

# What the essential terms give to the chunks that can still come up to `least`, at most `limit` of them; and for each
# of these what the other terms add.
_ESSENTIAL_SCORES = f"""
    WITH {{eligible}} essential (term_id, weight) AS (
        SELECT * FROM unnest(%(term_ids)s::integer[], %(weights)s::float8[])
    ), other (term_id, weight) AS (
        SELECT * FROM unnest(%(other_ids)s::integer[], %(other_weights)s::float8[])
    ), partial AS MATERIALIZED (
        SELECT chunk_id, sum({_IMPACT}) AS found
        FROM essential JOIN rag_posting AS posting USING (term_id) {{join}}
        GROUP BY chunk_id HAVING sum({_IMPACT}) + %(others_at_most)s::float8 >= %(least)s::float8
        ORDER BY found DESC LIMIT %(limit)s::bigint
    )
    SELECT chunk_id, found + coalesce(added, 0) AS score
    FROM partial, LATERAL (
        SELECT sum({_IMPACT}) AS added FROM other JOIN rag_posting AS posting USING (term_id)
        WHERE posting.chunk_id = partial.chunk_id
    ) AS looked_up
    ORDER BY score DESC, chunk_id
    LIMIT %(depth)s
"""  # noqa: S608  (made of the constants above)

# Terms of the query by position, with how many chunks hold each, and the best chunks where there are few postings.
_AT_ONCE = f"""
    WITH word AS MATERIALIZED (
        SELECT lexeme.positions, term.id AS term_id,
               (SELECT count(*) FROM rag_posting WHERE term_id = term.id)::integer AS held
        FROM unnest(to_tsvector(%(configuration)s::regconfig, %(text)s)) AS lexeme
        LEFT JOIN rag_lexicalterm AS term
          ON term.collection_id = %(collection_id)s AND term.term = lexeme.lexeme
    ), query AS MATERIALIZED (
        SELECT term_id, cardinality(positions)
               * ln(1 + greatest(%(chunk_count)s - held + 0.5::float8, 0) / (held + 0.5::float8)) AS weight
        FROM word WHERE held > 0
    )
    SELECT
        ARRAY(SELECT position::integer FROM word, unnest(positions) AS position ORDER BY position),
        ARRAY(SELECT coalesce(term_id, {UNKNOWN}) FROM word, unnest(positions) AS position ORDER BY position),
        ARRAY(SELECT held FROM word, unnest(positions) AS position ORDER BY position),
        ARRAY(
            SELECT chunk_id
            FROM query JOIN rag_posting AS posting USING (term_id)
            WHERE (SELECT sum(held) FROM word) < %(many_postings)s
            GROUP BY chunk_id
            ORDER BY sum({_IMPACT}) DESC, chunk_id
            LIMIT %(depth)s
        )
"""  # noqa: S608  (made of the constants above)

AT_ONCE_CHUNKS = 50_000
"""In larger collections it pays to remember how many chunks hold a term rather than to count them for each query."""

AT_ONCE_CHARACTERS = 1_000
"""A longer query may have more positions than PostgreSQL keeps of one text, and `tokenize` knows how to read it."""

MANY_POSTINGS = 20_000
"""From so many postings on the second look that MaxScore takes is worth it."""

_ROUNDING = 1e-9


@dataclass(slots=True)
class Counts:
    """What was counted of a collection at one generation: chunks that hold a term, by its id, and BM25's totals."""

    generation: int
    term_ids: dict[str, int] = field(default_factory=dict)
    """By lexeme, of those that the collection has."""
    frequencies: dict[int, int] = field(default_factory=dict)
    totals: tuple[int, int] | None = None
    """Chunks, and their tokens."""


class _Counted:
    """The counts at each collection's present generation, to be added to.

    A count may be newer than the generation it is kept under, never older: the generation rises with each change, in
    its transaction, and is read before anything is counted.
    """

    def __init__(self) -> None:
        self._of: dict[int, Counts] = {}

    def of(self, collection_id: int, generation: int) -> Counts:
        known = self._of.get(collection_id)
        if known is None or known.generation != generation:
            known = self._of[collection_id] = Counts(generation)
        return known

    def forget(self) -> None:
        self._of.clear()


counted = _Counted()
"""Of this process; one small entry for each term that was asked for since the last change."""


class _UnderWay:
    """Counts those who are at it in this process."""

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self) -> Iterator[int]:
        """Gives how many others there are when the block begins."""
        with self._lock:
            others = self._count
            self._count += 1
        try:
            yield others
        finally:
            with self._lock:
                self._count -= 1


_under_way = _UnderWay()


def _has_idle_processor(others: int) -> bool:
    """Whether so many other searches of this process leave one: each embeds here and ranks in PostgreSQL."""
    return others < max(own_processors() // 2, 1)


Words = Callable[[], tuple[QueryTerms, Int64Array | None]]
"""The query's terms, and what `retrieve_lexical` finds by them where that is known already. Called at most once."""


@contextmanager
def read_words(cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query: str) -> Iterator[Words]:
    """Begin with what a query's words say; the block may compute, and asks the database nothing before it calls.

    All at once where PostgreSQL ranks, nothing is withheld or filtered away, the collection is neither large nor held
    and a processor is idle, else step by step.
    """
    with (
        _under_way.one_more() as others,
        _begun(cursor, snapshot, eligibility, query, spare=_has_idle_processor(others)) as words,
    ):
        yield words


@contextmanager
def _begun(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query: str, spare: bool
) -> Iterator[Words]:
    """As `read_words`; ``spare``: a processor is idle."""
    is_plain = snapshot.retrieval_mode == "pgvector" and eligibility.is_everything and resident.at(snapshot) is None
    text = lexical_text(query, snapshot.split_identifiers) if spare and is_plain else ""
    by_postgresql = spare and is_plain and len(text) <= AT_ONCE_CHARACTERS
    chunk_count, average_length = _totals(cursor, snapshot) if by_postgresql else (0, 0.0)
    if not by_postgresql or chunk_count > AT_ONCE_CHUNKS:
        yield lambda: (read_query(cursor, snapshot, query), None)
        return
    parameters = {
        "configuration": snapshot.text_configuration,
        "text": text,
        "collection_id": snapshot.collection_id,
        "chunk_count": chunk_count,
        "many_postings": MANY_POSTINGS,
        **_bm25_parameters(average_length),
        "depth": snapshot.candidate_depth,
    }
    with cursor.ahead(_AT_ONCE, parameters) as rows:

        def words() -> tuple[QueryTerms, Int64Array | None]:
            ((positions, term_ids, held, found),) = rows()
            terms = _terms_at(positions, term_ids, held, average_length, chunk_count)
            few = terms.document_frequencies.sum() < MANY_POSTINGS
            return terms, np.array(found, dtype=np.int64) if few else None

        yield words


def _terms_at(
    positions: list[int], term_ids: list[int], held: list[int], average_length: float, chunk_count: int
) -> QueryTerms:
    """From the positions that hold a term, counted from 1, and how many chunks hold that."""
    frequencies = dict(zip(term_ids, held, strict=True))
    row = np.full(max(positions, default=0), GAP, dtype=np.int32)
    # A term whose last posting is gone is as unknown as one that never was.
    row[np.array(positions, dtype=np.int64) - 1] = [
        term_id if frequencies[term_id] else UNKNOWN for term_id in term_ids
    ]
    return QueryTerms.from_positions(row, frequencies, average_length, chunk_count)


def _bm25_parameters(average_length: float) -> dict[str, object]:
    return {"average_length": average_length or 1.0, "k1": BM25_K1, "b": BM25_B}


def read_query(cursor: HotCursor, snapshot: PipelineSnapshot, query: str) -> QueryTerms:
    """The query's terms as the collection's text configuration stems them, with their statistics.

    Only what the principal may read is counted: a score must not tell that a hidden document holds a word.
    """
    ids = _ids(cursor, snapshot, query)
    known = np.unique(ids[ids > GAP])
    frequencies, chunk_count, average_length = _statistics(cursor, snapshot, known)
    # A term whose last posting is gone is as unknown as one that never was.
    ids[np.isin(ids, known[frequencies == 0])] = UNKNOWN
    held = dict(zip(known.tolist(), frequencies.tolist(), strict=True))
    return QueryTerms.from_positions(ids, held, average_length, chunk_count)


def _ids(cursor: HotCursor, snapshot: PipelineSnapshot, query: str) -> Int32Array:
    """The query as term ids: shape (positions,), `GAP` for a stop word, `UNKNOWN` for a term not indexed."""
    lexemes = query_lexemes(
        cursor, query, configuration=snapshot.text_configuration, split_identifiers=snapshot.split_identifiers
    )
    held = resident.at(snapshot)
    if held is not None:
        known = held.term_ids
    else:
        known = counted.of(snapshot.collection_id, snapshot.generation).term_ids
        missing = {lexeme for lexeme in lexemes if lexeme and lexeme not in known}
        if missing:
            known.update(term_ids(cursor, snapshot.collection_id, sorted(missing)))
    return np.array([known.get(lexeme, UNKNOWN) if lexeme else GAP for lexeme in lexemes], dtype=np.int32)


def _statistics(cursor: HotCursor, snapshot: PipelineSnapshot, known: Int32Array) -> tuple[Int64Array, int, float]:
    """How many of the chunks that may be read hold each term, int64; how many there are, and their average length."""
    readable = Eligibility(snapshot.groups, {})
    if readable.is_everything:
        held = resident.at(snapshot)
        if held is not None:
            return held.terms.document_frequencies(known), len(held.chunk_ids), held.terms.average_length
        return _frequencies(cursor, snapshot, known), *_totals(cursor, snapshot)
    of_readable = {"collection_id": snapshot.collection_id, "term_ids": known.tolist(), **readable.parameters}
    found: dict[int, int] = {}
    if len(known):
        found.update(cursor.rows(_READABLE_FREQUENCIES.format(readable=readable.condition), of_readable))
    ((chunks, tokens),) = cursor.rows(_READABLE_TOTALS.format(readable=readable.condition), of_readable)
    frequencies = np.array([found.get(term_id, 0) for term_id in known.tolist()], dtype=np.int64)
    return frequencies, chunks, tokens / chunks if chunks else 0.0


def _frequencies(cursor: HotCursor, snapshot: PipelineSnapshot, known: Int32Array) -> Int64Array:
    """How many chunks hold each of the terms."""
    frequencies = counted.of(snapshot.collection_id, snapshot.generation).frequencies
    missing = [term_id for term_id in known.tolist() if term_id not in frequencies]
    if missing:
        found: dict[int, int] = dict(cursor.rows(_FREQUENCIES, {"term_ids": missing}))
        frequencies.update((term_id, found.get(term_id, 0)) for term_id in missing)
    return np.array([frequencies[term_id] for term_id in known.tolist()], dtype=np.int64)


def _totals(cursor: HotCursor, snapshot: PipelineSnapshot) -> tuple[int, float]:
    """How many chunks the collection has, and their average length."""
    counts = counted.of(snapshot.collection_id, snapshot.generation)
    if counts.totals is None:
        ((chunks, tokens),) = cursor.rows(_TOTALS, {"collection_id": snapshot.collection_id})
        counts.totals = chunks, tokens
    chunks, tokens = counts.totals
    return chunks, tokens / chunks if chunks else 0.0


def retrieve_lexical(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, terms: QueryTerms
) -> Int64Array:
    """Chunk ids, int64, best BM25 first, at most ``snapshot.candidate_depth``; ties by id."""
    if not len(terms.unique_ids):
        return np.empty(0, dtype=np.int64)
    weights = terms.counts * inverse_document_frequency(terms.document_frequencies, terms.chunk_count)
    parameters = {
        "collection_id": snapshot.collection_id,
        **_bm25_parameters(terms.average_length),
        "depth": snapshot.candidate_depth,
        **eligibility.parameters,
    }
    # Rarest first; what a term can add falls with it.
    order = np.lexsort((terms.unique_ids, terms.document_frequencies))
    ids, weights, held = terms.unique_ids[order], weights[order], terms.document_frequencies[order]
    collection = resident.at(snapshot) if eligibility.is_everything else None
    if collection is not None:
        return collection.chunk_ids[collection.terms.rank(ids, weights, snapshot.candidate_depth)]
    if eligibility.is_everything and held_postings.has_room(int(held.sum())):
        postings = held_postings.of(cursor, snapshot, ids.tolist(), terms.average_length)
        return rank(postings, weights, snapshot.candidate_depth)
    essential = _essential_terms(cursor, eligibility, parameters, ids, weights, held)
    if essential is not None:
        return essential
    rows = cursor.rows(
        _with(eligibility, _SCORES), parameters | {"term_ids": ids.tolist(), "weights": weights.tolist()}
    )
    return np.array([row[0] for row in rows], dtype=np.int64)


def _essential_terms(
    cursor: HotCursor,
    eligibility: Eligibility,
    parameters: dict[str, object],
    ids: Int32Array,
    weights: Float64Array,
    held: Int64Array,
) -> Int64Array | None:
    """The best chunks by MaxScore; None where all postings have to be read. Terms come rarest first."""
    if held.sum() < MANY_POSTINGS or len(ids) < 2:
        return None
    depth = int(str(parameters["depth"]))
    statement = _with(eligibility, _ESSENTIAL_SCORES)

    def search(count: int, least: float, limit: int | None) -> list[tuple[int, float]]:
        given = {
            "term_ids": ids[:count].tolist(),
            "weights": weights[:count].tolist(),
            "other_ids": ids[count:].tolist(),
            "other_weights": weights[count:].tolist(),
            "others_at_most": at_most[count],
            "least": least,
            "limit": limit,
        }
        return [(chunk_id, score) for chunk_id, score in cursor.rows(statement, parameters | given)]

    # at_most[i]: what all terms from i on can add together, and a little for the order in which sums are rounded.
    at_most = [float(weights[count:].sum()) * (BM25_K1 + 1) + _ROUNDING for count in range(len(ids) + 1)]
    probing = int(np.searchsorted(np.cumsum(held), 2 * depth)) + 1
    if probing >= len(ids):
        return None
    probed = search(probing, float("-inf"), depth)
    if len(probed) < depth:
        return None
    least = probed[-1][1] - _ROUNDING
    count = next(count for count in range(len(ids) + 1) if at_most[count] < least or count == len(ids))
    if count == len(ids):
        return None
    return np.array([chunk_id for chunk_id, _ in search(max(count, 1), least, None)], dtype=np.int64)


def _with(eligibility: Eligibility, statement: str) -> str:
    if eligibility.is_everything:
        return statement.format(eligible="", join="")
    return statement.format(eligible=f"{eligibility.condition},", join="JOIN eligible USING (chunk_id)")
