"""What the tests of indexing share: small documents made by hand, and the laws that every state of the tables obeys."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
from django.db import connection
from django.db.models import Sum
from numpy.typing import NDArray

from rag.ingest.types import ChunkDraft
from rag.ingest.writer import DocumentFields, PreparedDocument
from rag.lexicon import Passage, decode_terms, encode_passages, heading_text
from rag.models import Chunk, Collection, DocEmbedding, Document, EmbeddingSpace, LexicalTerm

DIMENSION = 8


def make_space(slug: str = "bag") -> EmbeddingSpace:
    return EmbeddingSpace.objects.create(
        slug=slug, model_name="bag of words", artifact_sha256="0" * 64, dimension=DIMENSION, max_tokens=256
    )


def bag_of_words(text: str) -> NDArray[np.float32]:
    """A unit vector in which each word has its own place, decided by its hash."""
    vector = np.full(DIMENSION, 1e-3, dtype=np.float32)
    for word in text.lower().split():
        vector[hashlib.sha256(word.encode()).digest()[0] % DIMENSION] += 1
    unit: NDArray[np.float32] = vector / np.linalg.norm(vector)
    return unit


def prepare(
    collection: Collection, space: EmbeddingSpace, *passages: str, title: str = "", content_hash: str = ""
) -> PreparedDocument:
    """A document whose passages are given, one chunk each."""
    text = "\n".join(passages)
    drafts, start = [], 0
    for ordinal, passage in enumerate(passages):
        drafts.append(ChunkDraft(ordinal, passage, (), None, start, start + len(passage)))
        start += len(passage) + 1
    with connection.cursor() as cursor:
        terms = encode_passages(
            cursor,
            [Passage(heading_text(title, ()), passage) for passage in passages],
            collection_id=collection.id,
            configuration=collection.text_configuration,
            split_identifiers=collection.split_identifiers,
        )
    return PreparedDocument(
        text=text,
        content_hash=content_hash or hashlib.sha256((title + text).encode()).hexdigest(),
        drafts=drafts,
        terms=terms,
        embeddings=np.array([bag_of_words(passage) for passage in passages], dtype=np.float32).reshape(-1, DIMENSION),
        space_id=space.id,
        chunking_version=1,
    )


def fields(document_id: str = "d", **changes: object) -> DocumentFields:
    return DocumentFields(document_id=document_id, **changes)  # type: ignore[arg-type]


def postings(collection: Collection) -> dict[str, dict[int, tuple[int, int]]]:
    """``{term: {chunk id: (frequency, chunk length)}}`` as stored."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.term, p.chunk_id, p.frequency, p.chunk_length FROM rag_posting p "
            "JOIN rag_lexicalterm t ON t.id = p.term_id WHERE t.collection_id = %s",
            (collection.id,),
        )
        found: dict[str, dict[int, tuple[int, int]]] = {}
        for term, chunk_id, frequency, length in cursor.fetchall():
            found.setdefault(term, {})[chunk_id] = (frequency, length)
    return found


def totals(collection: Collection) -> tuple[int, int]:
    """``(N, tokens)`` as BM25 reads them."""
    sums = collection.lexical_totals.aggregate(chunks=Sum("chunks"), tokens=Sum("tokens"))
    return sums["chunks"] or 0, sums["tokens"] or 0


def assert_consistent(collection: Collection) -> None:
    """Postings, totals, vectors and counts say the same as the chunks do."""
    terms = dict(LexicalTerm.objects.filter(collection=collection).values_list("id", "term"))
    expected: dict[str, dict[int, tuple[int, int]]] = {}
    tokens = 0
    chunks = list(Chunk.objects.filter(collection=collection))
    for chunk in chunks:
        counts = Counter(int(term) for term in decode_terms(chunk.tokens) if term)
        assert chunk.token_count == sum(counts.values())
        tokens += chunk.token_count
        for term_id, count in counts.items():
            expected.setdefault(terms[term_id], {})[chunk.id] = (count, chunk.token_count)
    assert postings(collection) == expected
    assert totals(collection) == (len(chunks), tokens)
    assert set(DocEmbedding.objects.filter(collection=collection).values_list("chunk_id", flat=True)) == {
        chunk.id for chunk in chunks
    }
    for document in Document.objects.filter(collection=collection):
        own = [chunk for chunk in chunks if chunk.document_id == document.id]
        assert document.chunk_count == len(own)
        assert sorted(chunk.ordinal for chunk in own) == list(range(len(own)))
        assert all(document.text[chunk.start : chunk.end] == chunk.text for chunk in own)
        assert (document.indexed_at is not None) == bool(own)
