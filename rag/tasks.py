"""Background work of retrieval. Every task may run twice, at once, or die in the middle."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from rag import query_log, reembedding
from rag.evaluation import background
from rag.ingest import originals, runs, service, writer
from rag.models import IdempotentRequest, IndexRun, RunState

IDEMPOTENCY_RETENTION = timedelta(hours=24)


@shared_task(
    name="rag.index_batch",
    autoretry_for=(OperationalError, InterfaceError),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=20,
)
def index_batch(run_id: str) -> None:
    """Work off one batch of a run, and queue the next: long runs share the workers fairly."""
    if service.process_batch(UUID(run_id)):
        index_batch.delay(run_id)


@shared_task(name="rag.resume_index_runs")
def resume_index_runs(*, at_once: bool = False) -> None:
    """Queue runs again whose messages or workers were lost; ``at_once``, every run, as when a worker has just started.

    A run that is queued once too often only has more workers for a while.
    """
    stalled_after = timedelta(0) if at_once else runs.STALLED_AFTER
    for run_id in runs.take_stalled_runs(timezone.now(), stalled_after):
        if not runs.finish_if_done(run_id):
            index_batch.delay(str(run_id))


@shared_task(
    name="rag.evaluate_collection",
    autoretry_for=(OperationalError, InterfaceError),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=20,
)
def evaluate_collection(run_id: int) -> None:
    """Make an evaluation that was asked for."""
    background.perform(run_id)


@shared_task(name="rag.resume_evaluations")
def resume_evaluations(*, at_once: bool = False) -> None:
    """Queue evaluations again whose messages or workers were lost; as `resume_index_runs`."""
    stalled_after = timedelta(0) if at_once else background.STALLED_AFTER
    for run_id in background.take_stalled(timezone.now(), stalled_after):
        evaluate_collection.delay(run_id)


@shared_task(name="rag.fold_lexical_totals")
def fold_lexical_totals() -> None:
    """Keep BM25's totals short to read."""
    writer.fold_totals()


@shared_task(name="rag.complete_vectors")
def complete_vectors() -> None:
    """Embed what was indexed while a collection went from one embedder to another."""
    reembedding.fill_live()


@shared_task(name="rag.purge_deleted")
def purge_deleted() -> None:
    """Forget for good what may no longer be restored, and everything that only mattered for a while."""
    now = timezone.now()
    writer.purge(now - timedelta(hours=settings.RAG_DELETED_RETENTION_HOURS))
    IndexRun.objects.filter(
        state__in=(RunState.FINISHED, RunState.CANCELLED),
        finished_at__lt=now - timedelta(days=settings.RAG_INDEX_RUN_RETENTION_DAYS),
    ).delete()
    IdempotentRequest.objects.filter(created_at__lt=now - IDEMPOTENCY_RETENTION).delete()
    originals.collect_garbage()


@shared_task(name="rag.purge_query_log")
def purge_query_log() -> None:
    """Forget queries that are older than ``RAG_QUERY_LOG_RETENTION_DAYS``."""
    query_log.purge(timezone.now())
