"""The life of an index run: collecting, working, finished; and which worker works on which item.

A run is ``PENDING`` while its items are collected, then ``RUNNING``. An item is claimed with a lock of the claiming
worker's database session: when the worker dies the lock goes with it, and the item, still ``PENDING``, is taken again.
After a death items are taken one at a time, so that the one that kills workers is found out and fails alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from uuid import UUID

from django.db import Error, connection, transaction
from django.db.models import F, Q
from django.utils import timezone
from psycopg.pq import TransactionStatus

from rag.index_metrics import DOCUMENTS, ENDED
from rag.models import Collection, IndexItem, IndexRun, ItemState, RunState

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""How often a worker may die over an item before the item fails."""

STALLED_AFTER = timedelta(seconds=60)
"""A run without progress for so long has lost its workers, or waits behind others: it is queued once more."""

ABANDONED_AFTER = timedelta(hours=6)
"""A run whose items are still being collected after so long has lost who collected them."""

_LOCK_SPACE = 0x7A67 << 48
"""Keeps the keys of item locks apart from other advisory locks."""

_CLAIM_WINDOW = 10_000
_ITEMS_PER_INSERT = 500

_finish_hooks: list[Callable[[Collection], None]] = []


def create_run(collection: Collection, started_by: str, origin: str) -> IndexRun:
    """A run whose items are still to be added."""
    return IndexRun.objects.create(collection=collection, origin=origin, started_by=started_by)


def add_items(run: IndexRun, items: Sequence[IndexItem], unchanged: int = 0) -> None:
    """Add items, finished ones too, and count them; of ``unchanged`` documents only the number is kept."""
    for item in items:
        item.run = run
    IndexItem.objects.bulk_create(items, batch_size=_ITEMS_PER_INSERT)
    IndexRun.objects.filter(id=run.id).update(
        total=F("total") + len(items) + unchanged,
        unchanged=F("unchanged") + unchanged,
        failed=F("failed") + sum(item.state == ItemState.FAILED for item in items),
        progressed_at=timezone.now(),
    )


def open_run(run: IndexRun) -> None:
    """Let workers begin; a run with nothing to do is finished at once."""
    IndexRun.objects.filter(id=run.id, state=RunState.PENDING).update(
        state=RunState.RUNNING, started_at=timezone.now(), progressed_at=timezone.now()
    )
    finish_if_done(run.id)
    run.refresh_from_db()


def cancel_run(run_id: UUID) -> bool:
    """Leave the items that are still pending undone. Whether the run was not over yet."""
    cancelled = IndexRun.objects.filter(id=run_id, state__in=(RunState.PENDING, RunState.RUNNING)).update(
        state=RunState.CANCELLED, finished_at=timezone.now()
    )
    ENDED.labels(RunState.CANCELLED.value).inc(cancelled)
    return bool(cancelled)


def finish_if_done(run_id: UUID) -> bool:
    """Finish a running run that has no pending item left. Whether it was this call that did."""
    pending = IndexItem.objects.filter(run_id=run_id, state=ItemState.PENDING)
    if pending.exists():
        return False
    finished = IndexRun.objects.filter(id=run_id, state=RunState.RUNNING).update(
        state=RunState.FINISHED, finished_at=timezone.now()
    )
    ENDED.labels(RunState.FINISHED.value).inc(finished)
    if finished:
        transaction.on_commit(lambda: _tell_finished(run_id), robust=True)
    return bool(finished)


def register_finish_hook(hook: Callable[[Collection], None]) -> None:
    """Call ``hook`` in the process that has finished a run of a collection. What it raises is logged."""
    _finish_hooks.append(hook)


def _tell_finished(run_id: UUID) -> None:
    collection = Collection.objects.filter(index_runs__id=run_id).first()
    if collection is not None:
        for hook in _finish_hooks:
            hook(collection)


def settle(item: IndexItem, state: ItemState, reason: str = "") -> None:
    """Note, in the open transaction, what became of an item, and count it once."""
    if state == ItemState.PENDING:
        raise ValueError("an item can't be settled as pending")
    transaction.on_commit(lambda: DOCUMENTS.labels(state.value).inc())
    count = connection.ops.quote_name(state.value)
    with connection.cursor() as cursor:
        # The state is one of ours, and the name of its count.
        cursor.execute(
            f"""
            WITH settled AS (
                UPDATE rag_indexitem SET state = %s, reason = %s, text = NULL
                WHERE id = %s AND state = %s RETURNING run_id
            )
            UPDATE rag_indexrun SET {count} = {count} + 1, progressed_at = %s
            FROM settled WHERE rag_indexrun.id = settled.run_id
            """,  # noqa: S608
            (state.value, reason, item.id, ItemState.PENDING.value, timezone.now()),
        )


@contextmanager
def claimed(run_id: UUID, limit: int) -> Iterator[list[IndexItem]]:
    """Up to ``limit`` pending items that nobody else works on, in the order they were added.

    Those that are not settled when the block raises have not been attempted.
    """
    ids = _lock(run_id, Q(attempts=0), limit) or _lock(run_id, Q(attempts__gt=0), 1)
    try:
        # Another worker may have settled an item between our look and our lock.
        with transaction.atomic():
            pending = IndexItem.objects.filter(id__in=ids, state=ItemState.PENDING)
            pending.update(attempts=F("attempts") + 1)
            items = list(pending.select_related("run").order_by("id"))
        try:
            yield items
        except BaseException:
            abandon_statement()
            _give_back(items)
            raise
    finally:
        _unlock(ids)


def abandon_statement() -> None:
    """Let go of a connection that an interruption left in the middle of a statement; the next query opens another."""
    held = connection.connection
    if held is not None and held.info.transaction_status == TransactionStatus.ACTIVE:
        connection.close()


def take_stalled_runs(now: datetime, stalled_after: timedelta = STALLED_AFTER) -> list[UUID]:
    """Running runs that have made no progress for so long, each at most once in that time.

    Runs that nobody collects items for any more are cancelled.
    """
    abandoned = IndexRun.objects.filter(state=RunState.PENDING, progressed_at__lt=now - ABANDONED_AFTER).update(
        state=RunState.CANCELLED, finished_at=now
    )
    ENDED.labels(RunState.CANCELLED.value).inc(abandoned)
    with transaction.atomic():
        stalled = IndexRun.objects.select_for_update(skip_locked=True).filter(
            state=RunState.RUNNING, progressed_at__lt=now - stalled_after
        )
        ids = list(stalled.order_by("created_at").values_list("id", flat=True))
        IndexRun.objects.filter(id__in=ids).update(progressed_at=now)
    return ids


def _lock(run_id: UUID, condition: Q, limit: int) -> list[int]:
    candidates = list(
        IndexItem.objects.filter(condition, run_id=run_id, run__state=RunState.RUNNING, state=ItemState.PENDING)
        .order_by("id")
        .values_list("id", flat=True)[:_CLAIM_WINDOW]
    )
    if not candidates:
        return []
    with connection.cursor() as cursor:
        # The materialised rows are read one by one, so no more locks are taken than are returned.
        cursor.execute(
            """
            WITH candidate AS MATERIALIZED (
                SELECT id, number FROM unnest(%s::bigint[]) WITH ORDINALITY AS listed(id, number)
            )
            SELECT id FROM candidate WHERE pg_try_advisory_lock(%s | id) LIMIT %s
            """,
            (candidates, _LOCK_SPACE, limit),
        )
        return [row[0] for row in cursor.fetchall()]


def _unlock(ids: Sequence[int]) -> None:
    if not ids:
        return
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_unlock(%s | id) FROM unnest(%s::bigint[]) AS held(id)", (_LOCK_SPACE, list(ids))
            )

    except Error:
        # The session is gone, and its locks with it.
        logger.warning("The locks of %d items could not be released; the database does it", len(ids))


def _give_back(items: Sequence[IndexItem]) -> None:
    try:
        IndexItem.objects.filter(id__in=[item.id for item in items], state=ItemState.PENDING, attempts__gt=0).update(
            attempts=F("attempts") - 1
        )
    except Error:
        logger.warning("The attempts of %d items could not be taken back", len(items))
