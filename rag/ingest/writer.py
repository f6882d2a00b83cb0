"""Writes documents: chunks, vectors, postings, totals and the document's row stand or fall together.

    with changing(collection_id) as change:
        state = write_document(change, fields, prepared, revision)

One transaction is one document. Two writers of the same document wait for each other at its row; writers of different
documents meet only at the collection's counters, which are raised last and so are held for the length of a commit.
Writers don't share a counter for BM25's totals: each adds a row to `LexicalTotals`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

import numpy as np
from django.db import OperationalError, connection, transaction
from django.db.models import F
from django.utils import timezone
from pgvector import Vector
from psycopg.errors import DeadlockDetected

from rag.ingest.types import ChunkDraft
from rag.lexicon import Terms, decode_terms
from rag.milvus import outbox
from rag.models import Collection, Document, DocumentState, ItemState
from rag.pipeline.types import GAP, Float32Array

_POSTINGS_PER_STATEMENT = 50_000
_DOCUMENTS_PER_TRANSACTION = 500
_DELETE_ATTEMPTS = 5
_VECTORS_PER_DELETE = 10_000


@dataclass(slots=True)
class Change:
    """What the open transaction does to a collection; `changing` turns it into counters."""

    collection_id: int
    content: bool = False
    access: bool = False
    documents: set[int] = field(default_factory=set)
    """Rows of the documents that it changes or removes."""


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """What is known of a document besides its text. ``offer`` is what its owner said of it, as `Document.offer`."""

    document_id: str
    title: str = ""
    source: str = ""
    source_root: str = ""
    external_url: str | None = None
    media_type: str = "text/plain"
    metadata: Mapping[str, Any] = field(default_factory=dict)
    access_groups: Sequence[str] = ()
    original: str = ""
    size_bytes: int = 0
    offer: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PreparedDocument:
    """A document ready to be searched.

    drafts, terms: one each per chunk, in order. embeddings: float32, shape (chunks, dimension of the space).
    """

    text: str
    content_hash: str
    drafts: Sequence[ChunkDraft]
    terms: Sequence[Terms]
    embeddings: Float32Array
    space_id: int
    chunking_version: int


@contextmanager
def changing(collection_id: int) -> Iterator[Change]:
    """One transaction over a collection. What changed raises its counters last, just before the commit."""
    with transaction.atomic():
        change = Change(collection_id)
        yield change
        outbox.note(collection_id, change.documents)
        if change.content or change.access:
            Collection.objects.filter(id=collection_id).update(
                generation=F("generation") + int(change.content), access_epoch=F("access_epoch") + int(change.access)
            )


def next_revision() -> int:
    """A revision above those of all items accepted so far."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT nextval(pg_get_serial_sequence('rag_indexitem', 'id'))")
        return int(cursor.fetchone()[0])


def write_document(change: Change, fields: DocumentFields, prepared: PreparedDocument, revision: int) -> ItemState:
    """Put the document in place of what is there under its id.

    ``UNCHANGED`` when what is there is the same or newer: then only its fields are brought up to date, or nothing.
    """
    document = _find_or_new(change.collection_id, fields.document_id)
    if document.revision > revision:
        return ItemState.UNCHANGED
    was_indexed = document.indexed_at is not None
    if was_indexed and document.content_hash == prepared.content_hash:
        return _update(change, document, fields, revision)
    access_changes = _set_fields(document, fields)
    document.text = prepared.text
    document.content_hash = prepared.content_hash
    document.state = DocumentState.INDEXED
    document.failure = ""
    document.chunk_count = len(prepared.drafts)
    document.indexed_at = timezone.now()
    document.deleted_at = None
    document.revision = revision
    if not _store(document):
        return write_document(change, fields, prepared, revision)
    removed_chunks, removed_tokens = _remove_chunks(document.id) if was_indexed else (0, 0)
    _insert_chunks(document, prepared)
    _add_totals(
        change.collection_id,
        len(prepared.drafts) - removed_chunks,
        sum(terms.count for terms in prepared.terms) - removed_tokens,
    )
    change.content = True
    change.documents.add(document.id)
    change.access |= access_changes
    return ItemState.CHANGED if was_indexed else ItemState.ADDED


def update_fields(change: Change, fields: DocumentFields, content_hash: str, revision: int) -> ItemState | None:
    """Bring everything but the text of an indexed document up to date: ``CHANGED``, or ``UNCHANGED``.

    None, and nothing is done, when its content isn't ``content_hash``.
    """
    document = _find(change.collection_id, fields.document_id)
    if document is not None and document.revision > revision:
        return ItemState.UNCHANGED
    if document is None or document.indexed_at is None or document.content_hash != content_hash:
        return None
    return _update(change, document, fields, revision)


def add_vectors(
    change: Change, space_id: int, chunk_ids: Sequence[int], document_row_ids: Sequence[int], vectors: Float32Array
) -> int:
    """Add the vectors of chunks in one more space; those of chunks that are gone, or have one, are left out.

    ``vectors``: float32, shape (chunks, dimension), aligned with both lists of ids. Returns how many were added.
    Whoever changes one of the documents waits, and is waited for.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM rag_document WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
            (sorted(set(document_row_ids)),),
        )
        cursor.execute(
            """
            SELECT id FROM rag_chunk AS chunk WHERE id = ANY(%s) AND NOT EXISTS (
                SELECT 1 FROM doc_embeddings AS vector WHERE vector.chunk_id = chunk.id AND vector.space_id = %s
            )
            """,
            (list(chunk_ids), space_id),
        )
        bare = {row[0] for row in cursor.fetchall()}
    change.documents.update(document_row_ids)
    _copy_vectors(
        change.collection_id,
        space_id,
        ((chunk_id, vector) for chunk_id, vector in zip(chunk_ids, vectors, strict=True) if chunk_id in bare),
    )
    return len(bare)


def drop_vectors(collection_id: int, space_id: int) -> int:
    """Delete some of a collection's vectors in a space; call it until it returns 0."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            DELETE FROM doc_embeddings WHERE id IN (
                SELECT id FROM doc_embeddings WHERE collection_id = %s AND space_id = %s LIMIT %s
            )
            """,
            (collection_id, space_id, _VECTORS_PER_DELETE),
        )
        count = int(cursor.rowcount)
    outbox.note(collection_id, [outbox.NO_DOCUMENT] if count else [])
    return count


def record_failure(change: Change, fields: DocumentFields, reason: str, revision: int) -> None:
    """Note why a document can't be indexed. What was indexed of it before stays searchable, for who may read it now."""
    document = _find_or_new(change.collection_id, fields.document_id)
    if document.revision > revision:
        return
    access_changes = _set_fields(document, fields)
    document.state = DocumentState.FAILED
    document.failure = reason
    document.deleted_at = None
    document.revision = revision
    if not _store(document):
        record_failure(change, fields, reason, revision)
        return
    change.content |= document.indexed_at is not None
    change.documents.add(document.id)
    change.access |= access_changes


def remove_document(change: Change, document_id: str, revision: int) -> bool:
    """Take a document out of the search. It keeps its text, so that it can be restored, until it is purged.

    False when there is nothing to remove, or something newer than ``revision`` is there.
    """
    document = _find(change.collection_id, document_id)
    if document is None or document.state == DocumentState.DELETED or document.revision > revision:
        return False
    change.documents.add(document.id)
    removed_chunks, removed_tokens = _remove_chunks(document.id)
    _add_totals(change.collection_id, -removed_chunks, -removed_tokens)
    document.state = DocumentState.DELETED
    document.deleted_at = timezone.now()
    document.content_hash = ""
    document.chunk_count = 0
    document.indexed_at = None
    document.revision = revision
    document.save(
        update_fields=(
            "state",
            "deleted_at",
            "content_hash",
            "chunk_count",
            "indexed_at",
            "revision",
            "updated_at",
        )
    )
    change.content = True
    return True


def purge(deleted_before: datetime) -> int:
    """Forget documents for good that were deleted before then. Returns how many."""
    purged = 0
    while True:
        with transaction.atomic():
            ids = list(
                Document.objects.select_for_update(skip_locked=True)
                .filter(state=DocumentState.DELETED, deleted_at__lt=deleted_before)
                .values_list("id", flat=True)[:_DOCUMENTS_PER_TRANSACTION]
            )
            if ids:
                with connection.cursor() as cursor:
                    cursor.execute("DELETE FROM rag_document WHERE id = ANY(%s)", (ids,))
        purged += len(ids)
        if len(ids) < _DOCUMENTS_PER_TRANSACTION:
            return purged


def delete_collection(collection_id: int) -> None:
    """Delete a collection with everything in it, in many short transactions; calling it again goes on."""
    while _delete_some_documents(collection_id):
        pass
    for attempt in range(1, _DELETE_ATTEMPTS + 1):
        try:
            _delete_rest(collection_id)
        except OperationalError as error:
            # A writer held a document and waited for the collection, which we held and waited for the document.
            if not isinstance(error.__cause__, DeadlockDetected) or attempt == _DELETE_ATTEMPTS:
                raise
        else:
            return


def _delete_rest(collection_id: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        # Nobody can add a document while the row is locked so.
        cursor.execute("SELECT 1 FROM rag_collection WHERE id = %s FOR UPDATE", (collection_id,))
        while _delete_some_documents(collection_id):
            pass
        cursor.execute(
            "DELETE FROM rag_posting WHERE term_id IN (SELECT id FROM rag_lexicalterm WHERE collection_id = %s)",
            (collection_id,),
        )
        cursor.execute("DELETE FROM rag_lexicalterm WHERE collection_id = %s", (collection_id,))
        Collection.objects.filter(id=collection_id).delete()
        outbox.note(collection_id, [outbox.NO_DOCUMENT])


def fold_totals() -> int:
    """Add up each collection's rows of `LexicalTotals` into one. Returns how many rows were folded.

    Safe beside writers and beside itself: it adds up exactly the rows that it deletes, in one statement.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            WITH crowded AS (
                SELECT collection_id FROM rag_lexicaltotals GROUP BY collection_id HAVING count(*) > 1
            ), gone AS (
                DELETE FROM rag_lexicaltotals WHERE collection_id IN (SELECT collection_id FROM crowded)
                RETURNING collection_id, chunks, tokens
            ), folded AS (
                INSERT INTO rag_lexicaltotals (collection_id, chunks, tokens)
                SELECT collection_id, sum(chunks), sum(tokens) FROM gone GROUP BY collection_id
            )
            SELECT count(*) FROM gone
            """
        )
        return int(cursor.fetchone()[0])


def _find(collection_id: int, document_id: str) -> Document | None:
    return (
        Document.objects.select_for_update()
        .defer("text")
        .filter(collection_id=collection_id, document_id=document_id)
        .first()
    )


def _find_or_new(collection_id: int, document_id: str) -> Document:
    """The document's row, locked; where there is none, a new one that is not stored yet."""
    return _find(collection_id, document_id) or Document(collection_id=collection_id, document_id=document_id)


def _store(document: Document) -> bool:
    """Save a row. False when a new one can't be stored because another writer has just made it.

    Waits for that writer's commit first, so that the next look finds its row.
    """
    if document.pk is not None:
        document.save()
        return True
    columns = [column for column in Document._meta.concrete_fields if not column.primary_key]
    names = ", ".join(connection.ops.quote_name(column.column) for column in columns)
    values = [column.get_db_prep_save(column.pre_save(document, True), connection) for column in columns]
    with connection.cursor() as cursor:
        # The names are those of our own columns.
        cursor.execute(
            f"INSERT INTO rag_document ({names}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608
            "ON CONFLICT (collection_id, document_id) DO NOTHING RETURNING id",
            values,
        )
        row = cursor.fetchone()
    document.pk = row[0] if row else None
    return row is not None


def _update(change: Change, document: Document, fields: DocumentFields, revision: int) -> ItemState:
    before = _comparable(document)
    change.access |= _set_fields(document, fields)
    document.revision = revision
    # The version that failed is gone again: what is indexed is what its owner has now.
    was_failed = document.state == DocumentState.FAILED
    document.state, document.failure = DocumentState.INDEXED, ""
    document.save()
    if _comparable(document) == before and not was_failed:
        return ItemState.UNCHANGED
    change.content = True
    change.documents.add(document.id)
    return ItemState.CHANGED


def _comparable(document: Document) -> tuple[Any, ...]:
    return (
        document.title,
        document.source,
        document.source_root,
        document.external_url,
        document.media_type,
        document.metadata,
        list(document.access_groups),
        document.original,
    )


def _set_fields(document: Document, fields: DocumentFields) -> bool:
    """Copy the fields to the row (not saved). Returns whether who may read it changes."""
    access_changes = document.indexed_at is not None and list(document.access_groups) != list(fields.access_groups)
    document.title = fields.title
    document.source = fields.source
    document.source_root = fields.source_root
    document.external_url = fields.external_url
    document.media_type = fields.media_type
    document.metadata = dict(fields.metadata)
    document.access_groups = list(fields.access_groups)
    document.original = fields.original
    document.size_bytes = fields.size_bytes
    document.offer = dict(fields.offer)
    return access_changes


def _remove_chunks(document_row_id: int) -> tuple[int, int]:
    """Delete a document's chunks, vectors and postings. Returns how many chunks and how many tokens that were."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, tokens, token_count FROM rag_chunk WHERE document_id = %s", (document_row_id,))
        rows = cursor.fetchall()
        if not rows:
            return 0, 0
        terms = [np.unique(decode_terms(tokens)) for _, tokens, _ in rows]
        term_ids = np.concatenate(terms)
        chunk_ids = np.repeat([row[0] for row in rows], [len(ids) for ids in terms])
        held = term_ids != GAP
        term_ids, chunk_ids = term_ids[held], chunk_ids[held]
        for start in range(0, len(term_ids), _POSTINGS_PER_STATEMENT):
            part = slice(start, start + _POSTINGS_PER_STATEMENT)
            cursor.execute(
                """
                DELETE FROM rag_posting USING unnest(%s::integer[], %s::bigint[]) AS old(term_id, chunk_id)
                WHERE rag_posting.term_id = old.term_id AND rag_posting.chunk_id = old.chunk_id
                """,
                (term_ids[part].tolist(), chunk_ids[part].tolist()),
            )
        cursor.execute("DELETE FROM doc_embeddings WHERE chunk_id = ANY(%s)", ([row[0] for row in rows],))
        cursor.execute("DELETE FROM rag_chunk WHERE document_id = %s", (document_row_id,))
    return len(rows), sum(row[2] for row in rows)


def _insert_chunks(document: Document, prepared: PreparedDocument) -> None:
    count = len(prepared.drafts)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nextval(pg_get_serial_sequence('rag_chunk', 'id')) FROM generate_series(1, %s)", (count,)
        )
        chunk_ids = [int(row[0]) for row in cursor.fetchall()]
    _copy(
        """
        COPY rag_chunk (id, collection_id, document_id, ordinal, text, heading_path, page, start, "end",
                        chunking_version, tokens, title_length, token_count) FROM STDIN WITH (FORMAT BINARY)
        """,
        ["int8", "int8", "int8", "int4", "text", "text[]", "int4", "int4", "int4", "int2", "bytea", "int2", "int4"],
        (
            (
                chunk_id,
                document.collection_id,
                document.id,
                draft.ordinal,
                draft.text,
                list(draft.heading_path),
                draft.page,
                draft.start,
                draft.end,
                prepared.chunking_version,
                terms.to_bytes(),
                terms.title_length,
                terms.count,
            )
            for chunk_id, draft, terms in zip(chunk_ids, prepared.drafts, prepared.terms, strict=True)
        ),
    )
    _copy_vectors(document.collection_id, prepared.space_id, zip(chunk_ids, prepared.embeddings, strict=True))
    _copy(
        "COPY rag_posting (term_id, chunk_id, frequency, chunk_length) FROM STDIN WITH (FORMAT BINARY)",
        ["int4", "int8", "int2", "int4"],
        chain.from_iterable(
            _postings(chunk_id, terms) for chunk_id, terms in zip(chunk_ids, prepared.terms, strict=True)
        ),
    )


def _copy_vectors(collection_id: int, space_id: int, vectors: Iterable[tuple[int, Float32Array]]) -> None:
    # A vector's binary form goes through as bytes, so that its type needn't be looked up on each connection.
    _copy(
        "COPY doc_embeddings (chunk_id, space_id, collection_id, embedding) FROM STDIN WITH (FORMAT BINARY)",
        ["int8", "int8", "int8", "bytea"],
        ((chunk_id, space_id, collection_id, Vector(vector).to_binary()) for chunk_id, vector in vectors),
    )


def _postings(chunk_id: int, terms: Terms) -> Iterator[tuple[int, int, int, int]]:
    term_ids, frequencies = terms.frequencies()
    length = terms.count
    for term_id, frequency in zip(term_ids.tolist(), frequencies.tolist(), strict=True):
        yield term_id, chunk_id, frequency, length


def _copy(statement: str, types: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with connection.cursor() as cursor, connection.wrap_database_errors, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _add_totals(collection_id: int, chunks: int, tokens: int) -> None:
    if chunks or tokens:
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO rag_lexicaltotals (collection_id, chunks, tokens) VALUES (%s, %s, %s)",
                (collection_id, chunks, tokens),
            )


def _delete_some_documents(collection_id: int) -> int:
    """Delete some of a collection's documents with all that hangs on them. Returns how many; 0 when none is left."""
    with changing(collection_id) as change:
        ids = list(
            Document.objects.select_for_update()
            .filter(collection_id=collection_id)
            .order_by("id")
            .values_list("id", flat=True)[:_DOCUMENTS_PER_TRANSACTION]
        )
        removed_chunks = removed_tokens = 0
        for row_id in ids:
            chunks, tokens = _remove_chunks(row_id)
            removed_chunks += chunks
            removed_tokens += tokens
        _add_totals(collection_id, -removed_chunks, -removed_tokens)
        if ids:
            with connection.cursor() as cursor:
                cursor.execute("DELETE FROM rag_document WHERE id = ANY(%s)", (ids,))
            change.content = True
            change.documents.update(ids)
    return len(ids)
