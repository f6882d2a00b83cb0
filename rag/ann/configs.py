"""What becomes of a vector index configuration: proposed, built, put live, retired, dropped.

Each verb is one function, used by the command, the admin and the task alike. What is live is a state of the row, under
a constraint of one a collection and space: see the decision record on vector indexes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.db.models import F
from django.utils import timezone

from models_registry import clock
from models_registry.live import view
from models_registry.locks import lock_until_commit
from models_registry.models import Slot
from models_registry.scopes import require_write
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, InvalidRequest, NotFound, Unprocessable
from rag.ann import indexes, past
from rag.models import AnnConfig, AnnPrecision, AnnState, AnnStrategy, Collection, DocEmbedding, EmbeddingSpace
from rag.spaces import space_of

CREATE = declare_action("ann.create", "A vector index configuration was added.")
ACTIVATE = declare_action("ann.activate", "A vector index configuration became live.")
DROP = declare_action("ann.drop", "A vector index configuration was retired and its index dropped.")

INDEX_SETTINGS = {
    AnnStrategy.EXACT: (),
    AnnStrategy.HNSW: ("precision", "m", "ef_construction"),
    AnnStrategy.IVFFLAT: ("precision", "lists"),
}
"""What decides how an index is built; the other settings are of searching."""

SEARCH_SETTINGS = ("ef_search", "probes", "iterative_scan", "rerank")
SETTINGS = ("strategy", "precision", "m", "ef_construction", "lists", *SEARCH_SETTINGS)

MAX_DIMENSION = {AnnPrecision.FULL: 2000, AnnPrecision.HALF: 4000, AnnPrecision.BINARY: 64_000}
"""What pgvector can index, in dimensions."""


def find(number: int, *, by: Principal) -> AnnConfig:
    """A configuration. Raises `NotFound` alike for an unknown one and one of a collection that may not be touched."""
    config = AnnConfig.objects.select_related("collection", "space").filter(pk=number).first()
    if config is None or not by.may_touch(config.collection.slug):
        raise NotFound(f"There is no vector index configuration {number}. `manage.py ann list` shows them.")
    return config


def live_space(collection: Collection) -> EmbeddingSpace:
    """The space of the embedder that is live for a collection. Raises `Unavailable`."""
    return EmbeddingSpace.objects.get(pk=space_of(view.model(Slot.EMBEDDER, collection.slug)).id)


def propose(
    collection: Collection,
    space: EmbeddingSpace,
    given: Mapping[str, Any],
    *,
    by: Principal,
    reason: str = "",
    rebuild: bool = False,
) -> AnnConfig:
    """A new configuration, ready at once where a complete index with the same settings is there, else to be built.

    ``given``: values of `SETTINGS`; the others have their defaults. ``rebuild``: build a new index in any case, as when
    IVFFlat's cells no longer fit what was added since. Raises `InvalidRequest` that names every field at fault,
    `Forbidden`.
    """
    require_write(collection.slug, by)
    config = AnnConfig(collection=collection, space=space, by=by.name, reason=reason, **given)
    check(config)
    vectors = DocEmbedding.objects.filter(collection=collection, space=space).count()
    with transaction.atomic():
        lock_until_commit(_lock(config))
        twin = None if rebuild else _twin(config)
        config.vectors = vectors
        if config.strategy == AnnStrategy.EXACT:
            config.state, config.recall_at_10, config.built_at = AnnState.READY, 1.0, timezone.now()
        elif twin is not None:
            config.state, config.built_at = AnnState.READY, twin.built_at
            config.index_name, config.marker, config.vectors = twin.index_name, twin.marker, twin.vectors
            config.build_ms, config.size_bytes = twin.build_ms, twin.size_bytes
        config.save(force_insert=True)
        if config.state == AnnState.BUILDING:
            config.marker, config.index_name = config.pk, indexes.name_of(config)
            config.save(update_fields=["marker", "index_name"])
        audit.record(by, CREATE, str(config), {name: getattr(config, name) for name in SETTINGS} | {"reason": reason})
    return config


def check(config: AnnConfig) -> None:
    """Raises `InvalidRequest` that names every setting at fault."""
    faults: dict[str, str] = {}
    try:
        config.full_clean(exclude=["by"], validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        faults = {name: " ".join(messages) for name, messages in error.message_dict.items()}
    if not faults and config.strategy == AnnStrategy.HNSW and config.ef_construction < 2 * config.m:
        faults["ef_construction"] = f"At least twice m ({2 * config.m})."
    if not faults and config.strategy != AnnStrategy.EXACT:
        most = MAX_DIMENSION[AnnPrecision(config.precision)]
        if config.space.dimension > most:
            faults["precision"] = f"At most {most} dimensions, and the space has {config.space.dimension}."
    if faults:
        raise InvalidRequest(" ".join(f"{name}: {fault}" for name, fault in faults.items()), errors=faults)


def build(config: AnnConfig) -> AnnConfig:
    """Build the index of a configuration that waits for it, while everything else goes on. Returns the row anew.

    Raises `Conflict` when another process builds it, and `Unprocessable` when it can't be built: then the row says why,
    nothing of the index is left, and what was live still is.
    """
    if config.state != AnnState.BUILDING:
        return config
    with connection.cursor() as cursor:
        lock = indexes.lock_name(config.index_name)
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [lock])
        if not cursor.fetchone()[0]:
            raise Conflict(f"{config} is being built already.")
        try:
            _build(config)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [lock])
    return config


def _build(config: AnnConfig) -> None:
    config.vectors = DocEmbedding.objects.filter(collection=config.collection_id, space=config.space_id).count()
    config.save(update_fields=["vectors"])
    started = time.perf_counter()
    try:
        with transaction.atomic() if connection.in_atomic_block else nullcontext():
            indexes.create(config)
    except DatabaseError as error:
        _fail(config, " ".join(str(error).split()))
        raise Unprocessable(f"{config} could not be built: {config.failure}") from error
    config.build_ms = (time.perf_counter() - started) * 1000
    config.size_bytes = indexes.size_bytes(config.index_name)
    config.state, config.built_at = AnnState.READY, timezone.now()
    config.save(update_fields=["build_ms", "size_bytes", "state", "built_at"])


def activate(config: AnnConfig, *, by: Principal, reason: str = "", force: bool = False) -> AnnConfig | None:
    """Put a configuration live in one transaction; what is live already stays. Returns the one it takes the place of.

    Searches that begin after the commit use it, and what was cached before is not used for them. Raises `Unprocessable`
    when its index is not there, and `Conflict` when its recall was not measured or is below ``RAG_ANN_RECALL_FLOOR``;
    ``force`` overrides the latter, and the audit trail says so.
    """
    require_write(config.collection.slug, by)
    with transaction.atomic():
        lock_until_commit(_lock(config))
        config.refresh_from_db()
        if config.state == AnnState.LIVE:
            return None
        require_index(config)
        below = _below_floor(config)
        if below and not force:
            raise Conflict(f"{config} {below} Use --force to put it live all the same.")
        current = live(config.collection_id, config.space_id)
        # By the database's clock, which is that of the deployments: what was live at a moment must fit together.
        moment = clock.now()
        if current is not None:
            moment = max(moment, current.activated_at or moment)
            current.state, current.retired_at = AnnState.RETIRED, moment
            current.save(update_fields=["state", "retired_at"])
        config.state, config.activated_at, config.retired_at = AnnState.LIVE, moment, None
        config.save(update_fields=["state", "activated_at", "retired_at"])
        Collection.objects.filter(pk=config.collection_id).update(index_epoch=F("index_epoch") + 1)
        past.began(config, current, by=by, reason=reason)
        audit.record(
            by,
            ACTIVATE,
            str(config),
            {
                "reason": reason,
                "before": str(current) if current else None,
                "recall_at_10": config.recall_at_10,
                "forced": below if force and below else None,
            },
        )
    return current


def droppable(config: AnnConfig) -> str:
    """The index that `drop` would delete, empty where there is none or another row needs it.

    Raises `Conflict` for the live one and for one that is being built.
    """
    if config.state == AnnState.LIVE:
        raise Conflict(f"{config} is live: put another one live first, such as an exact one.")
    if config.index_name and indexes.is_being_built(config.index_name):
        raise Conflict(f"{config} is being built. Stop that first, or let it finish.")
    sharing = AnnConfig.objects.exclude(pk=config.pk).filter(index_name=config.index_name)
    return "" if sharing.exists() else config.index_name


def drop(config: AnnConfig, *, by: Principal, reason: str = "") -> str:
    """Retire a configuration for good and drop its index, unless another row shares it. Returns the dropped index.

    Raises `Conflict` as `droppable` does.
    """
    require_write(config.collection.slug, by)
    with transaction.atomic():
        lock_until_commit(_lock(config))
        config.refresh_from_db()
        index_name = droppable(config)
        config.index_name = ""
        if config.state != AnnState.FAILED:
            config.state = AnnState.RETIRED
            config.retired_at = config.retired_at or timezone.now()
        config.save(update_fields=["index_name", "state", "retired_at"])
        audit.record(by, DROP, str(config), {"reason": reason, "index": index_name})
    if index_name:
        indexes.drop(index_name)
    return index_name


def sweep(*, dry_run: bool = False) -> list[str]:
    """Clear away what dead builders and deleted collections left. Returns what was found, one line each.

    A row that waits to be built by a task is left alone: it has no index yet.
    """
    found = []
    names = indexes.existing()
    building = AnnConfig.objects.filter(state=AnnState.BUILDING, index_name__in=names)
    for config in building.select_related("collection", "space"):
        if not indexes.is_being_built(config.index_name):
            found.append(f"{config} was not finished: whoever built it is gone.")
            if not dry_run:
                _fail(config, "Whoever built it was stopped half-way.")
    known = set(AnnConfig.objects.exclude(index_name="").values_list("index_name", flat=True))
    for name in names:
        if name not in known and not indexes.is_being_built(name):
            found.append(f"The index {name} belongs to nothing any more.")
            if not dry_run:
                indexes.drop(name)
    return found


def live(collection_id: int, space_id: int) -> AnnConfig | None:
    """The configuration that searches go by; None: they are exact."""
    return (
        AnnConfig.objects.select_related("collection", "space")
        .filter(collection=collection_id, space=space_id, state=AnnState.LIVE)
        .first()
    )


def _twin(config: AnnConfig) -> AnnConfig | None:
    """The newest row with the same index settings whose index is complete."""
    if config.strategy == AnnStrategy.EXACT:
        return None
    same = {name: getattr(config, name) for name in INDEX_SETTINGS[AnnStrategy(config.strategy)]}
    rows = AnnConfig.objects.filter(
        collection=config.collection, space=config.space, strategy=config.strategy, **same
    ).exclude(index_name="")
    return next((row for row in rows if indexes.size_bytes(row.index_name) is not None), None)


def require_index(config: AnnConfig) -> None:
    """Raises `Unprocessable` unless the configuration can be searched by."""
    if config.strategy == AnnStrategy.EXACT:
        return
    if not config.index_name or indexes.size_bytes(config.index_name) is None:
        state = AnnState(config.state).label.lower()
        raise Unprocessable(f"{config} ({state}) has no complete index. Build one with `manage.py ann build`.")


def _below_floor(config: AnnConfig) -> str:
    """Why a configuration may not become live without force; empty when it may."""
    floor: float = settings.RAG_ANN_RECALL_FLOOR
    if config.strategy == AnnStrategy.EXACT:
        return ""
    if config.recall_at_10 is None:
        return f"has not been measured. `manage.py ann measure {config.pk}` does that."
    if config.recall_at_10 < floor:
        return f"finds {config.recall_at_10:.3f} of the ten nearest, less than RAG_ANN_RECALL_FLOOR ({floor:g})."
    return ""


def _fail(config: AnnConfig, failure: str) -> None:
    """Note a failure, once nothing of the index is left."""
    indexes.drop(config.index_name)
    config.state, config.failure, config.index_name = AnnState.FAILED, failure, ""
    config.save(update_fields=["state", "failure", "index_name"])


def _lock(config: AnnConfig) -> str:
    return f"ann:{config.collection_id}:{config.space_id}"
