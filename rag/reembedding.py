"""Another embedder for a collection, without a pause: its space is filled over the same chunks while the first serves.

    fill(collection, version)       # as often as it takes; it goes on where it stopped
    deployments.activate(...)       # refused while vectors are missing: `require_filled` guards it
    fill(collection, version)       # what was indexed while the switch was made
    drop(collection, version)       # the old vectors, once nobody wants to go back

Documents are indexed into the live space only, so a space that is not live falls behind. `fill_live` brings the live
one of each collection up to date, and one that is kept for a rollback; a background task calls it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from django.db import connection, transaction

from models_registry import deployments, space_builds
from models_registry.live import not_deployed
from models_registry.locks import lock_until_commit
from models_registry.models import GLOBAL_SCOPE, ModelVersion, Role, Slot
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, Problem, Unprocessable
from rag.ingest import writer
from rag.ingest.plan import ensure_chunks_fit
from rag.ingest.prepare import embedding_texts, heading_line
from rag.ingest.writer import changing
from rag.models import Collection
from rag.pipeline.embed import Embedder, EmbeddingError, require_vectors
from rag.spaces import load_embedder, space_of

logger = logging.getLogger(__name__)

DROP_EMBEDDINGS = declare_action(
    "embeddings.drop", "The vectors of an embedder that is not live are gone; `embedder embed` makes them again."
)

CHUNKS_PER_BATCH = 256
"""Embedded at once and written in one transaction: a few seconds of work that an interruption loses."""

OnProgress = Callable[[int, int], None]
"""Called with ``(chunks that have a vector, all chunks)``."""

_BARE = """
    SELECT chunk.id, chunk.document_id, document.title, chunk.heading_path, chunk.text, document.text = document.title
    FROM rag_chunk AS chunk JOIN rag_document AS document ON document.id = chunk.document_id
    WHERE chunk.collection_id = %s AND chunk.id > %s AND NOT EXISTS (
        SELECT 1 FROM doc_embeddings AS vector WHERE vector.chunk_id = chunk.id AND vector.space_id = %s
    )
    ORDER BY chunk.id LIMIT %s
"""

_COVERAGE = """
    SELECT collection.slug, count(chunk.id), count(vector.id)
    FROM rag_collection AS collection
    LEFT JOIN rag_chunk AS chunk ON chunk.collection_id = collection.id
    LEFT JOIN doc_embeddings AS vector ON vector.chunk_id = chunk.id AND vector.space_id = %s
    WHERE collection.slug = coalesce(%s, collection.slug)
    GROUP BY collection.slug ORDER BY collection.slug
"""


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of a collection's chunks have a vector in a space."""

    collection: str
    chunks: int
    vectors: int

    @property
    def missing(self) -> int:
        return self.chunks - self.vectors


def coverage(version: ModelVersion, slug: str | None = None) -> list[Coverage]:
    """Of every collection, or of one, sorted by slug, in the space of an embedder version."""
    with connection.cursor() as cursor:
        cursor.execute(_COVERAGE, (_space_id(version), slug))
        return [Coverage(*row) for row in cursor.fetchall()]


def coverage_of(collection: Collection, version: ModelVersion) -> Coverage:
    """Of one collection."""
    found = coverage(version, collection.slug)
    return found[0] if found else Coverage(collection.slug, 0, 0)


def fill(collection: Collection, version: ModelVersion, on_progress: OnProgress = lambda done, total: None) -> int:
    """Embed every chunk of a collection that has no vector in the version's space. Returns how many were embedded.

    It may be interrupted, run again, and run beside itself and beside indexing: what is there is not embedded again.
    Raises `Unprocessable` when the collection's chunks don't fit the embedder, `EmbeddingError`.
    """
    embedder = load_embedder(not_deployed(Slot.EMBEDDER, version), indexing=True)
    ensure_chunks_fit(collection.chunk_tokens, embedder.space)
    before = coverage_of(collection, version)
    filled = added = 0
    after = 0
    on_progress(before.vectors, before.chunks)
    while True:
        with connection.cursor() as cursor:
            cursor.execute(_BARE, (collection.id, after, embedder.space.id, CHUNKS_PER_BATCH))
            rows = cursor.fetchall()
        if rows:
            filled += _embed_and_write(collection, version, embedder, rows)
            after = rows[-1][0]
            on_progress(min(before.vectors + filled, before.chunks), before.chunks)
        elif filled == added:
            return filled  # a whole pass found nothing that could be done
        else:
            # Chunks that came meanwhile may have lower ids: sequences run ahead of commits.
            added, after = filled, 0


def fill_step(collection: Collection, version: ModelVersion, after: int) -> tuple[int, int | None]:
    """One batch of `fill`, of the chunks whose id is above ``after``: how many were embedded, and the last one's id.

    The id is ``None`` when no chunk above lacks a vector.
    """
    embedder = load_embedder(not_deployed(Slot.EMBEDDER, version), indexing=True)
    ensure_chunks_fit(collection.chunk_tokens, embedder.space)
    with connection.cursor() as cursor:
        cursor.execute(_BARE, (collection.id, after, embedder.space.id, CHUNKS_PER_BATCH))
        rows = cursor.fetchall()
    if not rows:
        return 0, None
    return _embed_and_write(collection, version, embedder, rows), rows[-1][0]


def fill_live() -> int:
    """Embed what lacks a vector in the live space of each collection, and in those kept for going back.

    Returns how many chunks that were.
    """
    filled = 0
    for collection in Collection.objects.order_by("id"):
        for version in [*_searched_by(collection), *_kept_for(collection)]:
            try:
                if coverage_of(collection, version).missing:
                    filled += fill(collection, version)
            except (EmbeddingError, Problem) as error:
                logger.warning("The vectors of '%s' can't be completed: %s", collection.slug, error)
    return filled


def _searched_by(collection: Collection) -> list[ModelVersion]:
    """The embedders that answer queries of a collection: the stable one, and those that rollouts give a share."""
    deployed = deployments.effective(Slot.EMBEDDER, collection.slug)
    rows = deployments.live().filter(slot=Slot.EMBEDDER, scope__in={collection.slug, GLOBAL_SCOPE})
    beside = [row.model_version for row in rows.exclude(role=Role.STABLE)]
    stable = deployed.model_version if deployed else None
    return list({version.pk: version for version in [stable, *beside] if version is not None}.values())


def _kept_for(collection: Collection) -> list[ModelVersion]:
    """The embedders that a rollback of a collection's embedder would bring back."""
    stable = deployments.effective(Slot.EMBEDDER, collection.slug)
    if stable is None or stable.model_version is None:
        return []
    return space_builds.kept_for(stable.model_version, [stable.scope])


def drop(collection: Collection, version: ModelVersion, by: Principal, *, dry_run: bool = False) -> int:
    """Delete a collection's vectors in a version's space, for good. Returns how many; with ``dry_run`` deletes none.

    Raises `Conflict` when the space is what the collection is searched by.
    """
    space_id, dropped = _space_id(version), 0
    while True:
        with transaction.atomic():
            if _is_live(collection, space_id):
                raise Conflict(f"{version} is the embedder of '{collection.slug}': activate another before.")
            if version in _searched_by(collection):
                raise Conflict(f"A rollout gives {version} a share of '{collection.slug}': end it before.")
            if dry_run:
                return coverage_of(collection, version).vectors
            count = writer.drop_vectors(collection.id, space_id)
        dropped += count
        if not count:
            audit.record(by, DROP_EMBEDDINGS, collection.slug, {"embedder": str(version), "vectors": dropped})
            return dropped


def require_filled(version: ModelVersion, scope: str) -> None:
    """Raises `Unprocessable` unless every collection that would be searched by the version has all its vectors.

    The guard of the embedder's slot: an activation must not make documents vanish from dense retrieval.
    """
    served = Collection.objects.filter(chunks__isnull=False).distinct()
    if scope == GLOBAL_SCOPE:
        stable = deployments.live().filter(slot=Slot.EMBEDDER, role=Role.STABLE)
        own = stable.exclude(scope=GLOBAL_SCOPE).values("scope")
        served = served.exclude(slug__in=own)
    else:
        served = served.filter(slug=scope)
    collections = {collection.slug: collection for collection in served}
    if not collections:
        return
    space = space_of(not_deployed(Slot.EMBEDDER, version))
    for collection in collections.values():
        ensure_chunks_fit(collection.chunk_tokens, space)
    short = [found for found in coverage(version) if found.collection in collections and found.missing]
    if short:
        what = ", ".join(f"{found.missing} of {found.chunks} in '{found.collection}'" for found in short[:3])
        more = f" and in {len(short) - 3} more collections" if len(short) > 3 else ""
        raise Unprocessable(
            f"Passages have no vector of {version} yet: {what}{more}. "
            f"`manage.py embedder embed {short[0].collection} --embedder {version}` makes them."
        )


def _embed_and_write(
    collection: Collection, version: ModelVersion, embedder: Embedder, rows: Sequence[tuple[object, ...]]
) -> int:
    chunk_ids, document_ids, titles, heading_paths, texts, stands_in = zip(*rows, strict=True)
    passages = [
        ("" if no_heading else heading_line(title, path), text)
        for title, path, text, no_heading in zip(titles, heading_paths, texts, stands_in, strict=True)
    ]
    vectors = embedder.embed_documents(embedding_texts(passages, collection.chunk_tokens, embedder))
    require_vectors(vectors, len(passages), embedder.space)
    with changing(collection.id) as change:
        # Held to the commit, so that nobody switches between this look and it: cached answers of the live space, and
        # only those, must not outlive this change.
        change.content = _is_live(collection, embedder.space.id)
        added = writer.add_vectors(change, embedder.space.id, chunk_ids, document_ids, vectors)
        change.content = change.content and added > 0
    return added


def _is_live(collection: Collection, space_id: int) -> bool:
    """Whether a collection is searched by a space; nobody can change that before the open transaction ends."""
    for scope in (GLOBAL_SCOPE, collection.slug):
        lock_until_commit(deployments.change_lock(Slot.EMBEDDER, scope))
    deployed = deployments.effective(Slot.EMBEDDER, collection.slug)
    return deployed is not None and deployed.model_version is not None and _space_id(deployed.model_version) == space_id


def _space_id(version: ModelVersion) -> int:
    return space_of(not_deployed(Slot.EMBEDDER, version)).id
