"""Sources: made, changed, looked at and scheduled here, for API, admin, commands and tasks alike."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError

from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.metrics import declare_counter
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, InvalidRequest, Unavailable, Unprocessable
from ops.terminal import printable
from rag.ingest import service as ingest
from rag.models import Collection, IndexRun, Source, SourceOutcome
from rag.readable import open_collections
from rag.sources.connectors import CONNECTORS
from rag.sources.permitted import secret_name
from rag.sources.sync import Looked, look
from rag.sources.types import SourceError

logger = logging.getLogger(__name__)

CREATE = declare_action("source.create", "A place is looked at for documents from now on.")
UPDATE = declare_action("source.update", "Settings of a source changed.")
DELETE = declare_action("source.delete", "A source is gone, with or without its documents.")
SYNC = declare_action("source.sync", "Somebody asked for a look at a source.")

SYNCS = declare_counter("zenglow_source_syncs", "Looks at sources, by how they ended.", ("kind", "outcome"))

SETTINGS = ("location", "options", "secret", "access_groups", "metadata", "interval_minutes", "is_paused")
"""What can be changed; name, collection and kind are what a source is."""

FETCH_SETTINGS = ("location", "options", "access_groups", "metadata")
"""When one of these changes, everything is read again."""

CLAIM = timedelta(minutes=5)
"""How long a look counts as going on after its last sign of life."""

LONGEST_PAUSE = timedelta(hours=24)
"""Between two looks at a source that keeps failing."""


def visible(principal: Principal) -> QuerySet[Source]:
    """The sources of the collections that the principal may touch."""
    return Source.objects.filter(collection__in=open_collections(principal)).select_related("collection", "last_run")


def create(name: str, collection: Collection, kind: str, principal: Principal, **given: Any) -> Source:
    """A new source, which is looked at as soon as a worker is free. Raises `InvalidRequest` and `Conflict`."""
    source = Source(name=name, collection=collection, kind=kind, created_by=principal.name, **given)
    check(source)
    source.next_run_at = _first_look(source)
    try:
        with transaction.atomic():
            source.save(force_insert=True)
            audit.record(principal, CREATE, name, {"collection": collection.slug, "kind": kind} | _noted(source))
    except IntegrityError as error:
        raise Conflict(f"There is a source '{name}' already.") from error
    return source


def update(source: Source, principal: Principal, **given: Any) -> Source:
    """Change settings. Raises `InvalidRequest`."""
    with transaction.atomic():
        current = Source.objects.select_for_update(of=("self",)).select_related("collection").get(pk=source.pk)
        changed = {name for name, value in given.items() if getattr(current, name) != value}
        for name in changed:
            setattr(current, name, given[name])
        check(current)
        if changed:
            if changed & set(FETCH_SETTINGS):
                current.items.update(revision="")
            current.failures_in_a_row = 0
            current.next_run_at = _first_look(current)
            current.save(update_fields=[*changed, "failures_in_a_row", "next_run_at"])
            audit.record(principal, UPDATE, current.name, {name: _noted(current)[name] for name in sorted(changed)})
    return current


def delete(source: Source, principal: Principal, *, keep_documents: bool = False) -> IndexRun | None:
    """Forget a source. Its documents are removed by a run, which is returned, unless they are to be kept."""
    with transaction.atomic():
        audit.record(principal, DELETE, source.name, {"keep_documents": keep_documents})
        root, collection, name, number = source.root, source.collection, source.name, source.pk
        source.delete()
    shutil.rmtree(Path(settings.ZENGLOW_DATA_DIR) / "sources" / str(number), ignore_errors=True)
    if keep_documents:
        collection.documents.filter(source_root=root).update(source_root="")
        return None
    return ingest.start_run(collection, [], principal, f"source: {name}", roots=[root])


def check(source: Source) -> None:
    """Normalise a source's settings in place. Raises `InvalidRequest` that names every setting at fault."""
    errors: dict[str, str] = {}
    connector = CONNECTORS.get(source.kind)
    if connector is None:
        errors["kind"] = f"One of {', '.join(CONNECTORS)}."
    else:
        for name, checked in (("location", connector.checked_location), ("options", connector.checked_options)):
            try:
                value = getattr(source, name)
                if name == "options" and not isinstance(value, Mapping):
                    raise InvalidRequest("", errors={"options": "An object."})
                setattr(source, name, checked(value))
            except InvalidRequest as problem:
                errors |= problem.errors
    try:
        source.secret = secret_name(source.secret)
    except InvalidRequest as problem:
        errors |= problem.errors
    if not isinstance(source.metadata, Mapping):
        errors["metadata"] = "An object."
    try:
        source.full_clean(
            exclude=["location", "options", "metadata"], validate_unique=False, validate_constraints=False
        )
    except ValidationError as error:
        errors |= {name: " ".join(messages) for name, messages in error.message_dict.items()}
    if errors:
        raise InvalidRequest(": ".join(next(iter(errors.items()))), errors=errors)


def ask_for_sync(source: Source, principal: Principal, *, dry_run: bool = False, may_be_empty: bool = False) -> None:
    """Have a worker look at once. Raises `Conflict` while somebody looks, and `Unavailable` without a task queue."""
    from rag.tasks import sync_source  # which imports this module

    if source.is_running:
        raise Conflict(f"'{source.name}' is being looked at just now.")
    with transaction.atomic():
        audit.record(principal, SYNC, source.name, {"dry_run": dry_run, "may_be_empty": may_be_empty})
    try:
        sync_source.delay(source.pk, dry_run=dry_run, may_be_empty=may_be_empty)
    except BrokerError as error:
        raise Unavailable("The task queue can't be reached just now.", retry_after_s=5) from error


def perform(number: int, *, dry_run: bool = False, may_be_empty: bool = False, enqueue: bool = True) -> Looked | None:
    """Look at a source and keep what came of it; ``None`` when it is gone or somebody looks already.

    A place that can't be read is no exception: the source says so. A dry run is kept as its ``preview``.
    """
    source = _claimed(number)
    if source is None:
        return None
    looked: Looked | None = None
    error = ""
    try:
        looked = look(
            source,
            SYSTEM,
            dry_run=dry_run,
            may_be_empty=may_be_empty,
            alive=lambda: _still_claimed(number),
            enqueue=enqueue,
        )
        error = looked.trouble
    except (SourceError, Unprocessable, Unavailable) as refusal:
        error = str(refusal)
    except Exception:
        _release(source, SourceOutcome.FAILED, "Something went wrong here; the log has the details.", None, dry_run)
        raise
    error = printable(error)
    outcome = SourceOutcome.FAILED if looked is None else SourceOutcome.PARTIAL if error else SourceOutcome.OK
    _release(source, outcome, error, looked, dry_run)
    return looked


def due(now: datetime) -> list[int]:
    """The sources whose time has come and that nobody looks at."""
    free = Q(running_until=None) | Q(running_until__lt=now)
    waiting = Source.objects.filter(free, is_paused=False, next_run_at__lte=now)
    return list(waiting.order_by("next_run_at").values_list("pk", flat=True))


def _claimed(number: int) -> Source | None:
    now = timezone.now()
    free = Q(running_until=None) | Q(running_until__lt=now)
    won = Source.objects.filter(free, pk=number).update(running_until=now + CLAIM, started_at=now)
    return Source.objects.select_related("collection").filter(pk=number).first() if won else None


def _still_claimed(number: int) -> bool:
    """Show a sign of life. Whether the source is still there and wanted."""
    until = timezone.now() + CLAIM
    return bool(Source.objects.filter(pk=number, is_paused=False).update(running_until=until))


def _release(source: Source, outcome: SourceOutcome, error: str, looked: Looked | None, dry_run: bool) -> None:
    now = timezone.now()
    SYNCS.labels(source.kind, "dry run" if dry_run else outcome.value).inc()
    if dry_run:
        preview = {"at": now.isoformat(), "error": error} | (looked.as_json() if looked else {})
        Source.objects.filter(pk=source.pk).update(running_until=None, preview=preview)
        return
    failures = source.failures_in_a_row + 1 if outcome is SourceOutcome.FAILED else 0
    fields: dict[str, Any] = {
        "running_until": None,
        "finished_at": now,
        "outcome": outcome,
        "error": error,
        "failures_in_a_row": failures,
        "next_run_at": _next_look(source, now, failures),
    }
    if looked is not None:
        plain = looked.as_json()
        plain.pop("changes")
        fields["tally"] = plain
        if looked.run is not None:
            fields["last_run"] = looked.run
    Source.objects.filter(pk=source.pk).update(**fields)
    if outcome is SourceOutcome.FAILED:
        logger.warning("Source %s: %s", source.name, error)


def _first_look(source: Source) -> datetime | None:
    return timezone.now() if source.interval_minutes and not source.is_paused else None


def _next_look(source: Source, now: datetime, failures: int) -> datetime | None:
    """Later and later while it fails: a place that is down is not helped by being asked."""
    if not source.interval_minutes:
        return None
    interval = timedelta(minutes=source.interval_minutes)
    pause: timedelta = max(interval, min(interval * 2 ** min(failures, 16), LONGEST_PAUSE))
    return now + pause


def _noted(source: Source) -> dict[str, Any]:
    return {name: getattr(source, name) for name in SETTINGS}
