"""A collection large enough for an index to lose something, in two halves that look in opposite directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from django.db import connection

from ops.contracts.principal import SYSTEM
from rag.ann import configs
from rag.models import AnnConfig, Collection, EmbeddingSpace
from rag.pipeline.types import Float32Array
from tests.rag.ingest_service.support import make_space
from tests.rag.pipeline.support import put, unit_vectors

DOCUMENTS = 80
CHUNKS = 35
COUNT = DOCUMENTS * CHUNKS


KINDS: list[dict[str, Any]] = [
    {"strategy": "hnsw"},
    {"strategy": "hnsw", "precision": "half"},
    {"strategy": "hnsw", "precision": "binary", "rerank": 1000},
    {"strategy": "ivfflat", "lists": 20, "probes": 12},
    {"strategy": "ivfflat", "precision": "half", "lists": 20, "probes": 12},
]


@dataclass(frozen=True)
class Large:
    """``vectors[i]`` is that of ``chunks[i]``, which is of document ``i // CHUNKS``."""

    collection: Collection
    space: EmbeddingSpace
    chunks: list[int]
    vectors: Float32Array

    def nearest(self, query: Float32Array, depth: int, documents: set[int] | None = None) -> list[int]:
        """Exactly the nearest chunks, of some documents if given."""
        distances = 1 - self.vectors.astype(np.float64) @ query.astype(np.float64)
        order = np.lexsort((self.chunks, distances))
        kept = [place for place in order if documents is None or place // CHUNKS in documents]
        return [self.chunks[place] for place in kept[:depth]]


def built(large: Large, **given: Any) -> AnnConfig:
    """A configuration whose index is there. Those of `KINDS` share the indexes that were built once."""
    return configs.build(configs.propose(large.collection, large.space, {"strategy": "hnsw"} | given, by=SYSTEM))


@pytest.fixture(scope="module")
def large(module_transaction: None) -> Large:
    """Nearly three thousand chunks. The first coordinate is positive in the first half of the documents alone."""
    collection, space = Collection.objects.create(slug="large"), make_space("of a large collection")
    vectors = unit_vectors(1, COUNT)
    half = np.where(np.arange(COUNT) < COUNT // 2, 1.0, -1.0).astype(np.float32)
    vectors[:, 0] = half * (np.abs(vectors[:, 0]) + 0.5)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chunks: list[int] = []
    for number in range(DOCUMENTS):
        part = slice(number * CHUNKS, (number + 1) * CHUNKS)
        chunks += put(
            collection,
            space,
            f"d{number}",
            *["some words"] * CHUNKS,
            vectors=vectors[part],
            metadata={"number": number, "even": number % 2 == 0, "half": number * 2 // DOCUMENTS},
            access_groups=["board"] if number % 40 == 7 else ["staff"] if number % 2 else [],
        )
    with connection.cursor() as cursor:
        # An index can't be made while checks of foreign keys are pending.
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED")
        cursor.execute("ANALYZE doc_embeddings; ANALYZE rag_document; ANALYZE rag_chunk")
    large = Large(collection, space, chunks, vectors)
    for given in KINDS:
        built(large, **given)
    return large
