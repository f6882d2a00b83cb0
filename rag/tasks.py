"""Background work of retrieval. Every task may run twice, at once, or die in the middle."""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils import timezone

from models_registry.background import STALLED_AFTER
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from rag import query_log, reembedding
from rag.ann import configs
from rag.ann.measure import measure
from rag.chat import conversations
from rag.evaluation import background, weights
from rag.ingest import originals, runs, service, writer
from rag.models import AnnConfig, AnnState, IdempotentRequest, IndexRun, RunState

logger = logging.getLogger(__name__)

IDEMPOTENCY_RETENTION = timedelta(hours=24)
SOURCES_EVERY_S = 30.0
"""How often `start_due_sources` looks, as the schedule in the settings has it."""


@shared_task(
    name="rag.index_batch",
    autoretry_for=(OperationalError, InterfaceError),
    retry_backoff=True,
    retry_backoff_max=60,
    max_retries=20,
)
def index_batch(run_id: str) -> None:
    """Work off one batch of a run, and queue the next meanwhile, for whoever is free."""
    run = UUID(run_id)
    service.process_batch(run, on_taken=lambda: service.enqueue_run(run))


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
    stalled_after = timedelta(0) if at_once else STALLED_AFTER
    for run_id in background.take_stalled(timezone.now(), stalled_after):
        evaluate_collection.delay(run_id)


@shared_task(name="rag.measure_weights")
def measure_weights(measurement_id: str) -> None:
    """Measure fusion weights that somebody is looking at."""
    weights.perform(measurement_id)


@shared_task(name="rag.fold_lexical_totals")
def fold_lexical_totals() -> None:
    """Keep BM25's totals short to read."""
    writer.fold_totals()


@shared_task(name="rag.complete_vectors")
def complete_vectors() -> None:
    """Embed what was indexed while a collection went from one embedder to another."""
    reembedding.fill_live()


@shared_task(name="rag.deliver_to_milvus")
def deliver_to_milvus() -> None:
    """Bring Milvus up to date. What fails stays in the outbox for the next time."""
    from rag.milvus import service as milvus

    milvus.deliver_now()


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


@shared_task(name="rag.build_ann")
def build_ann(number: int) -> None:
    """Build the index of a configuration, and measure it. The row says what became of it."""
    config = AnnConfig.objects.select_related("collection", "space").filter(pk=number).first()
    if config is None:
        return
    try:
        if configs.build(config).state == AnnState.READY and config.recall_at_10 is None:
            measure(config, by=SYSTEM)
    except Problem as problem:
        logger.warning("%s", problem)


@shared_task(name="rag.measure_ann")
def measure_ann(number: int) -> None:
    """Measure a configuration against exact search."""
    config = AnnConfig.objects.select_related("collection", "space").filter(pk=number).first()
    if config is not None:
        try:
            measure(config, by=SYSTEM)
        except Problem as problem:
            logger.warning("%s", problem)


@shared_task(name="rag.drop_ann")
def drop_ann(number: int, reason: str = "") -> None:
    """Drop the index of a configuration that is no longer live."""
    config = AnnConfig.objects.select_related("collection", "space").filter(pk=number).first()
    if config is not None and config.state != AnnState.LIVE and config.index_name:
        configs.drop(config, by=SYSTEM, reason=reason)


@shared_task(name="rag.sweep_ann")
def sweep_ann() -> None:
    """Clear away indexes that stopped builders and deleted collections left."""
    for line in configs.sweep():
        logger.info("%s", line)


@shared_task(name="rag.purge_query_log")
def purge_query_log() -> None:
    """Forget queries that are older than ``RAG_QUERY_LOG_RETENTION_DAYS``."""
    query_log.purge(timezone.now())


@shared_task(name="rag.start_due_sources")
def start_due_sources() -> None:
    """Look at the sources whose time has come. One that is queued twice is looked at once: the first claims it."""
    from rag.sources import service as sources

    for number in sources.due(timezone.now()):
        # The next time asks again: no heap of messages awaits a worker that was away or busy.
        sync_source.apply_async((number,), expires=SOURCES_EVERY_S)


@shared_task(name="rag.sync_source")
def sync_source(number: int, *, dry_run: bool = False, may_be_empty: bool = False) -> None:
    """Look at a source. What came of it stands in its row."""
    from rag.sources import service as sources

    sources.perform(number, dry_run=dry_run, may_be_empty=may_be_empty)


@shared_task(name="rag.purge_conversations")
def purge_conversations() -> None:
    """Delete conversations that nobody has added to for ``RAG_CONVERSATION_RETENTION_DAYS``."""
    conversations.purge(timezone.now())
