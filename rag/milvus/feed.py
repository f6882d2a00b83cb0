"""Brings Milvus up to date with PostgreSQL: document by document from the outbox, or a collection anew.

One process at a time feeds a collection, which orders the changes of each document. What is written is the document as
it is in PostgreSQL now, so that feeding twice, or after a crash half-way, ends the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from django.db import connection

from models_registry.locks import session_lock
from rag.lexicon import decode_terms
from rag.milvus.labels import labels_of
from rag.milvus.store import Copy, MilvusStore, average_length_of, lexical_vector
from rag.models import Collection, EmbeddingSpace
from rag.pipeline.database import hot_cursor
from rag.pipeline.types import Float32Array

DOCUMENTS_PER_BATCH = 100
CHUNKS_PER_BATCH = 1000

OnStep = Callable[[int, int], None]
"""Told ``(done, total)``."""

_COPIES = """
    SELECT chunk.id, chunk.document_id, d.access_groups, d.metadata, vector.embedding, chunk.tokens
    FROM rag_chunk chunk
    JOIN rag_document d ON d.id = chunk.document_id
    JOIN doc_embeddings vector ON vector.chunk_id = chunk.id
    WHERE vector.space_id = %(space_id)s AND {which}
    ORDER BY chunk.id
"""
_OF_DOCUMENTS = _COPIES.format(which="chunk.document_id = ANY(%(document_row_ids)s)")
_NEXT = _COPIES.format(which="chunk.collection_id = %(collection_id)s AND chunk.id > %(after)s") + " LIMIT %(limit)s"


def deliver(store: MilvusStore) -> int:
    """Work off the outbox. Returns how many changes were taken off it."""
    return sum(deliver_collection(store, collection_id) for collection_id in _waiting_collections())


def deliver_collection(store: MilvusStore, collection_id: int) -> int:
    """Work off one collection's part of the outbox, unless another process is at it."""
    with _fed_by_us_alone(collection_id) as alone:
        if not alone:
            return 0
        taken = 0
        while rows := _take(collection_id):
            _bring_up_to_date(store, collection_id, sorted({document for _, document in rows}))
            _done([row_id for row_id, _ in rows])
            taken += len(rows)
        return taken


def rebuild(store: MilvusStore, collection: Collection, on_step: OnStep = lambda done, total: None) -> int:
    """Build a collection's copy anew beside the old one, and switch. Returns how many chunks it holds.

    Searches use the old copy until then. What changes meanwhile waits in the outbox, and is worked off afterwards.
    """
    with session_lock(_lock_name(collection.id), on_wait=lambda: None):
        noted = [row_id for row_id, _ in _take(collection.id, limit=None)]
        spaces = spaces_of(collection.id)
        total = sum(count_vectors(collection.id, space_id) for space_id in spaces)
        done = 0
        for space_id in spaces:
            done += _build(store, collection.id, space_id, _after(done, total, on_step))
        _done(noted)
        return done


def _after(done: int, total: int, on_step: OnStep) -> Callable[[int], None]:
    return lambda now: on_step(done + now, total)


@dataclass(frozen=True, slots=True)
class Comparison:
    """PostgreSQL against Milvus, in chunks. ``drift``: how far the average length has moved since the build."""

    collection: str
    space_id: int
    chunks: int
    missing: int
    different: int
    surplus: int
    drift: float

    @property
    def is_same(self) -> bool:
        return not (self.missing or self.different or self.surplus)


def verify(store: MilvusStore, collection: Collection, on_step: OnStep = lambda done, total: None) -> list[Comparison]:
    """Compare every chunk's document, labels and vector. Nobody feeds meanwhile; what waits shows as a difference."""
    with session_lock(_lock_name(collection.id), on_wait=lambda: None):
        built = store.copies(collection.id)
        return [
            _compare(store, collection, space_id, built.get(space_id), on_step)
            for space_id in sorted({*spaces_of(collection.id), *built})
        ]


def count_vectors(collection_id: int, space_id: int) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM doc_embeddings WHERE collection_id = %s AND space_id = %s", (collection_id, space_id)
        )
        return int(cursor.fetchone()[0])


def _bring_up_to_date(store: MilvusStore, collection_id: int, document_row_ids: Sequence[int]) -> None:
    wanted = spaces_of(collection_id)
    built = store.copies(collection_id)
    for space_id in wanted:
        if space_id not in built:
            _build(store, collection_id, space_id, lambda now: None)
    for space_id, name in built.items():
        if space_id in wanted:
            _copy_documents(store, space_id, name, document_row_ids)
        else:
            store.drop(collection_id, space_id)


def _copy_documents(store: MilvusStore, space_id: int, name: str, document_row_ids: Sequence[int]) -> None:
    """New chunks first: a search in between finds both, and drops what PostgreSQL no longer has."""
    average_length = average_length_of(name)
    chunk_ids: list[int] = []

    def copies() -> Iterator[Copy]:
        parameters = {"space_id": space_id, "document_row_ids": list(document_row_ids)}
        for copy in _copies(_OF_DOCUMENTS, parameters, average_length):
            chunk_ids.append(copy.chunk_id)
            yield copy

    store.put(name, copies())
    store.keep_only(name, document_row_ids, chunk_ids)


def _build(store: MilvusStore, collection_id: int, space_id: int, on_step: Callable[[int], None]) -> int:
    average_length = _average_length(collection_id)
    dimension = EmbeddingSpace.objects.values_list("dimension", flat=True).get(id=space_id)
    name = store.create(collection_id, space_id, dimension, average_length)
    count = 0
    for batch in _batches(collection_id, space_id, average_length):
        store.put(name, batch)
        count += len(batch)
        on_step(count)
    store.publish(collection_id, space_id, name)
    return count


def _compare(
    store: MilvusStore, collection: Collection, space_id: int, name: str | None, on_step: OnStep
) -> Comparison:
    total = count_vectors(collection.id, space_id)
    if name is None:
        return Comparison(collection.slug, space_id, total, total, 0, 0, 0.0)
    built_for, average_length = average_length_of(name), _average_length(collection.id)
    seen = missing = different = 0
    for batch in _batches(collection.id, space_id, built_for):
        stored = store.rows(name, [copy.chunk_id for copy in batch])
        for copy in batch:
            row = stored.get(copy.chunk_id)
            missing += row is None
            different += row is not None and not _is_same(copy, row)
        seen += len(batch)
        on_step(seen, total)
    surplus = store.count(name) - (seen - missing)
    return Comparison(
        collection.slug, space_id, seen, missing, different, surplus, abs(average_length / (built_for or 1.0) - 1.0)
    )


def _is_same(copy: Copy, row: dict[str, object]) -> bool:
    return (
        row["document_row_id"] == copy.document_row_id
        and list(row["labels"]) == copy.labels  # type: ignore[call-overload]
        and np.array_equal(np.asarray(row["dense"], dtype=np.float32), copy.embedding)
    )


def _batches(collection_id: int, space_id: int, average_length: float) -> Iterator[list[Copy]]:
    after = 0
    while True:
        parameters: dict[str, object] = {
            "space_id": space_id,
            "collection_id": collection_id,
            "after": after,
            "limit": CHUNKS_PER_BATCH,
        }
        batch = list(_copies(_NEXT, parameters, average_length))
        if not batch:
            return
        yield batch
        after = batch[-1].chunk_id


def _copies(statement: str, parameters: dict[str, object], average_length: float) -> Iterator[Copy]:
    with hot_cursor() as cursor:
        rows = cursor.rows(statement, parameters)
    for chunk_id, document_row_id, access_groups, metadata, embedding, tokens in rows:
        yield Copy(
            chunk_id,
            document_row_id,
            labels_of(access_groups, metadata),
            _vector(embedding),
            lexical_vector(decode_terms(tokens), average_length),
        )


def _vector(embedding: object) -> Float32Array:
    numbers = embedding.to_numpy() if hasattr(embedding, "to_numpy") else embedding
    return np.asarray(numbers, dtype=np.float32)


def spaces_of(collection_id: int) -> list[int]:
    """The spaces in which a collection has vectors."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM rag_embeddingspace AS space WHERE EXISTS ("
            "SELECT 1 FROM doc_embeddings WHERE collection_id = %s AND space_id = space.id) ORDER BY id",
            (collection_id,),
        )
        return [row[0] for row in cursor.fetchall()]


def _average_length(collection_id: int) -> float:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(tokens)::float8 / nullif(sum(chunks), 0), 0) "
            "FROM rag_lexicaltotals WHERE collection_id = %s",
            (collection_id,),
        )
        return float(cursor.fetchone()[0])


def _waiting_collections() -> list[int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT collection_id FROM rag_milvusoutbox ORDER BY 1")
        return [row[0] for row in cursor.fetchall()]


def _take(collection_id: int, limit: int | None = DOCUMENTS_PER_BATCH) -> list[tuple[int, int]]:
    """``(outbox row, document)``, the oldest first. The rows stay until they are `_done`."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, document_row_id FROM rag_milvusoutbox WHERE collection_id = %s ORDER BY id LIMIT %s",
            (collection_id, limit),
        )
        return [(row[0], row[1]) for row in cursor.fetchall()]


def _done(row_ids: Sequence[int]) -> None:
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM rag_milvusoutbox WHERE id = ANY(%s)", (list(row_ids),))


def _lock_name(collection_id: int) -> str:
    return f"milvus-{collection_id}"


@contextmanager
def _fed_by_us_alone(collection_id: int) -> Iterator[bool]:
    """Whether nobody else feeds the collection; if so, nobody does until the end of the block."""
    name = (_lock_name(collection_id),)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", name)
        alone = bool(cursor.fetchone()[0])
    try:
        yield alone
    finally:
        if alone:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", name)
