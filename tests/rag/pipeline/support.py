"""Documents written by hand, with vectors of the test's own, and the snapshot that searches them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from django.db import connection

from ops.contracts.principal import Principal, PrincipalKind, Scope
from rag.ingest import writer
from rag.ingest.writer import changing
from rag.lexicon import heading_text, lexical_text, tokenize
from rag.models import Chunk, Collection, EmbeddingSpace
from rag.pipeline import cache
from rag.pipeline.embed import Space
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array
from rag.spaces import embedder_for
from tests.rag.ingest_service.support import fields, prepare

SNAPSHOT = PipelineSnapshot(
    collection_id=1,
    collection="c",
    generation=0,
    access_epoch=0,
    remembers_judgements=False,
    text_configuration="english",
    split_identifiers=False,
    groups=None,
    space=Space(1, "bag@1", 8, 256, "", ""),
    retrieval_mode="pgvector",
    candidate_depth=100,
    ranker_kind="simple",
    ranker_label="simple@1",
    feature_schema_version=2,
    weights_version=1,
    ltr_weight=0.5,
    conceptual_weight=0.5,
)


def snapshot_of(collection: Collection, space: EmbeddingSpace, **changes: Any) -> PipelineSnapshot:
    return replace(
        SNAPSHOT,
        collection_id=collection.id,
        generation=Collection.objects.values_list("generation", flat=True).get(id=collection.id),
        collection=collection.slug,
        text_configuration=collection.text_configuration,
        split_identifiers=collection.split_identifiers,
        space=Space(space.id, space.slug, space.dimension, space.max_tokens, "", ""),
        **changes,
    )


def put(
    collection: Collection,
    space: EmbeddingSpace,
    document_id: str,
    *passages: str,
    title: str = "",
    vectors: Float32Array | None = None,
    **given: Any,
) -> list[int]:
    """Write a document of one chunk a passage, and return the chunks' ids. ``vectors``: shape (passages, dimension)."""
    prepared = prepare(collection, space, *passages, title=title)
    if vectors is not None:
        prepared = replace(prepared, embeddings=vectors)
    with changing(collection.id) as change:
        writer.write_document(change, fields(document_id, title=title, **given), prepared, writer.next_revision())
    chunks = Chunk.objects.filter(document__collection=collection, document__document_id=document_id)
    return list(chunks.order_by("ordinal").values_list("id", flat=True))


def remove(collection: Collection, document_id: str) -> None:
    with changing(collection.id) as change:
        assert writer.remove_document(change, document_id, writer.next_revision())


def unit_vectors(seed: int, count: int, dimension: int = 8) -> Float32Array:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    unit: Float32Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def lexemes_of(collection: Collection, texts: Sequence[str]) -> list[list[str]]:
    """What PostgreSQL makes of each text under the collection's settings, stop words left out."""
    with connection.cursor() as cursor:
        rows = tokenize(
            cursor,
            collection.text_configuration,
            [lexical_text(text, collection.split_identifiers) for text in texts],
        )
    return [[lexeme for lexeme in row if lexeme] for row in rows]


def corpus_of(collection: Collection) -> dict[int, list[str]]:
    """``{chunk id: lexemes of title, headings and text}``, read from the texts and not from what is stored of them."""
    chunks = list(Chunk.objects.filter(collection=collection).select_related("document").order_by("id"))
    headings = lexemes_of(collection, [heading_text(chunk.document.title, chunk.heading_path) for chunk in chunks])
    bodies = lexemes_of(collection, [chunk.text for chunk in chunks])
    return {chunk.id: heading + body for chunk, heading, body in zip(chunks, headings, bodies, strict=True)}


def person(name: str, *groups: str, scopes: Sequence[Scope] = (Scope.QUERY,)) -> Principal:
    return Principal(PrincipalKind.USER, name, frozenset(scopes), groups=frozenset(groups))


@dataclass(frozen=True, slots=True)
class Text:
    """A document of one chunk, for `fill`."""

    text: str
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    access_groups: Sequence[str] = ()
    source: str = ""


def fill(collection: Collection, documents: Mapping[str, Text]) -> dict[str, int]:
    """Index documents with the live embedder; ``{document id: chunk id}``."""
    embedder = embedder_for(collection.slug)
    space = EmbeddingSpace.objects.get(id=embedder.space.id)
    distinct = sorted({document.text for document in documents.values()})
    vectors = dict(zip(distinct, embedder.embed_documents(distinct), strict=True))
    return {
        name: put(
            collection,
            space,
            name,
            document.text,
            title=document.title,
            vectors=vectors[document.text][None],
            metadata=document.metadata,
            access_groups=document.access_groups,
            source=document.source,
        )[0]
        for name, document in documents.items()
    }


def lookups(name: cache.CacheName) -> Counter[str]:
    """Lookups of a cache so far, by reason."""
    return Counter(
        {
            sample.labels["reason"]: int(sample.value)
            for metric in cache.LOOKUPS.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and sample.labels["cache"] == name
        }
    )
