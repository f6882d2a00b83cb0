"""Whether a collection learns from its judgements at query time, and the vectors of its judged queries.

Off unless somebody turns it on: on a test collection the answers to its own queries would otherwise be known.
"""

from __future__ import annotations

from django.db import transaction
from django.db.models import F
from pgvector import Vector

from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from rag.models import Collection, JudgedQuery, JudgedQueryVector
from rag.pipeline.query import normalize_query
from rag.spaces import embedder_for

MEMORY_ON = declare_action("memory.on", "A collection learns from its judgements at query time.")
MEMORY_OFF = declare_action("memory.off", "A collection no longer learns from its judgements at query time.")

_BATCH = 64


def turn_on(collection: Collection, principal: Principal) -> int:
    """Remember judgements from now on; the number of judged queries. Raises `EmbeddingError`."""
    return _turn(collection, principal, on=True)


def turn_off(collection: Collection, principal: Principal) -> None:
    """Forget: queries are ranked as if nothing was judged. The judgements stay."""
    _turn(collection, principal, on=False)


def refresh(collection: Collection) -> int:
    """Embed the judged queries that the live space lacks, and make cached answers stale; how many there are in all.

    To be called after a collection that remembers got other judgements or another embedder. Raises `EmbeddingError`.
    """
    judged = JudgedQuery.objects.filter(collection=collection)
    embedder = embedder_for(collection.slug, indexing=True)
    missing = list(judged.exclude(vectors__space_id=embedder.space.id).order_by("id"))
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = embedder.embed_queries([normalize_query(query.text) for query in batch])
        JudgedQueryVector.objects.bulk_create(
            (
                JudgedQueryVector(judged_query=query, space_id=embedder.space.id, embedding=Vector(vector))
                for query, vector in zip(batch, vectors, strict=True)
            ),
            ignore_conflicts=True,
        )
    Collection.objects.filter(id=collection.id).update(generation=F("generation") + 1)
    return judged.count()


def _turn(collection: Collection, principal: Principal, *, on: bool) -> int:
    count = refresh(collection) if on else 0
    with transaction.atomic():
        Collection.objects.filter(id=collection.id).update(remembers_judgements=on, generation=F("generation") + 1)
        if on:
            audit.record(principal, MEMORY_ON, collection.slug)
        else:
            audit.record(principal, MEMORY_OFF, collection.slug)
    collection.refresh_from_db()
    return count
