"""Collections: made, changed and deleted here, for the API, pages, commands and the admin alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import F

from models_registry import deployments
from models_registry.live import view
from models_registry.models import GLOBAL_SCOPE, Slot
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, InvalidRequest, Unavailable
from rag.ann import past as ann_past
from rag.ingest import service, writer
from rag.ingest.plan import ensure_chunks_fit
from rag.models import Collection, DocumentState, IndexRun
from rag.spaces import space_of

CREATE = declare_action("collection.create", "A collection was made.")
UPDATE = declare_action("collection.update", "Settings of a collection changed.")
DELETE = declare_action("collection.delete", "A collection and all its documents are gone.")

INDEX_SETTINGS = ("text_configuration", "split_identifiers", "chunk_tokens", "chunk_overlap_tokens")
"""Settings that decide how documents are indexed: when one changes, all documents are indexed again."""

SETTINGS = ("title", "description", "default_access_groups", *INDEX_SETTINGS)
"""Everything that can be changed; a slug never changes, as keys and deployments name it."""


@dataclass(frozen=True, slots=True)
class Updated:
    """A changed collection; ``run`` brings its documents up to the new settings, where that is needed."""

    collection: Collection
    run: IndexRun | None


def create_collection(slug: str, principal: Principal, **settings: Any) -> Collection:
    """A new collection. Raises `InvalidRequest` that names every field at fault, `Unprocessable`, and `Conflict`."""
    collection = Collection(slug=slug, **settings)
    check_collection(collection)
    try:
        with transaction.atomic():
            collection.save(force_insert=True)
            audit.record(principal, CREATE, slug, _noted(collection, SETTINGS))
    except IntegrityError as error:
        raise Conflict(f"There is a collection '{slug}' already.") from error
    return collection


def update_collection(collection: Collection, principal: Principal, **settings: Any) -> Updated:
    """Change settings of a collection. Raises `InvalidRequest`, `Unprocessable`.

    New index settings start a run over all documents; until it is done, some are indexed the old way.
    """
    with transaction.atomic():
        current = Collection.objects.select_for_update(no_key=True).get(id=collection.id)
        changed = {name for name, value in settings.items() if getattr(current, name) != value}
        for name in changed:
            setattr(current, name, settings[name])
        if not changed:
            return Updated(current, None)
        check_collection(current)
        if "default_access_groups" in changed:
            current.access_epoch = F("access_epoch") + 1
        if not changed.isdisjoint(INDEX_SETTINGS):
            current.generation = F("generation") + 1
        current.save()
        audit.record(principal, UPDATE, current.slug, _noted(current, changed))
    current.refresh_from_db()
    run = None
    if not changed.isdisjoint(INDEX_SETTINGS) and _has_documents(current):
        run = service.reindex_collection(current, principal)
    return Updated(current, run)


def delete_collection(collection: Collection, principal: Principal) -> None:
    """Delete a collection with all its documents, and end what is deployed for it alone. It can't be undone."""
    audit.record(principal, DELETE, collection.slug)
    for slot in Slot:
        if deployments.live().filter(slot=slot, scope=collection.slug).exists():
            deployments.deactivate(slot, collection.slug, by=SYSTEM, reason="The collection is deleted.")
    ann_past.ended(collection.slug)
    writer.delete_collection(collection.id)


def check_collection(collection: Collection) -> None:
    """Raises `InvalidRequest` that names every setting at fault, or `Unprocessable` for chunks that don't fit."""
    if collection.slug == GLOBAL_SCOPE:
        fault = f"'{GLOBAL_SCOPE}' means all collections; choose another name."
        raise InvalidRequest(f"slug: {fault}", errors={"slug": fault})
    try:
        collection.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        faults = {name: " ".join(messages) for name, messages in error.message_dict.items()}
        raise InvalidRequest(": ".join(next(iter(faults.items()))), errors=faults) from error
    if 2 * collection.chunk_overlap_tokens > collection.chunk_tokens:
        fault = f"At most half of chunk_tokens ({collection.chunk_tokens // 2})."
        raise InvalidRequest(f"chunk_overlap_tokens: {fault}", errors={"chunk_overlap_tokens": fault})
    try:
        embedder = view.model(Slot.EMBEDDER, collection.slug)
    except Unavailable:
        return  # checked when documents are indexed
    ensure_chunks_fit(collection.chunk_tokens, space_of(embedder))


def _has_documents(collection: Collection) -> bool:
    return collection.documents.exclude(state=DocumentState.DELETED).exists()


def _noted(collection: Collection, names: Any) -> dict[str, Any]:
    return {name: getattr(collection, name) for name in sorted(names)}
