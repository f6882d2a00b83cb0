"""Evaluations that a worker makes: asked for over the API or a page, followed by their progress.

A run is worked on by whoever holds its lock in the database. A worker that dies loses the lock with its session, and
the run is begun again; one that kills its workers fails.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db import Error, transaction
from django.db.models import F
from django.utils import timezone

from models_registry import background
from models_registry.background import STALLED_AFTER
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Problem
from rag.evaluation.run import judged_set, measure
from rag.models import EvaluationRun, EvaluationState

logger = logging.getLogger(__name__)

START = declare_action("evaluation.start", "A measurement of ranking quality was asked for.")

MAX_ATTEMPTS = 3
"""How often a worker may die over an evaluation before it fails."""

PROGRESS_EVERY_S = 1.0

LIVE = (EvaluationState.PENDING, EvaluationState.RUNNING)


class GoneError(Exception):
    """The run was deleted while it was being worked on."""


def start(collection_slug: str, principal: Principal, *, label: str = "") -> EvaluationRun:
    """Record an evaluation and hand it to the workers. Raises `NotFound` when there is nothing to measure.

    Without a broker nothing is lost: a periodic task queues it once the broker is back.
    """
    judged = judged_set(collection_slug)
    with transaction.atomic():
        run = EvaluationRun.objects.create(
            collection=collection_slug,
            label=label,
            started_by=principal.name,
            state=EvaluationState.PENDING,
            total=len(judged.queries),
            dataset_sha256=judged.sha256,
        )
        audit.record(principal, START, str(run.pk), {"collection": collection_slug, "label": label})
        transaction.on_commit(lambda: enqueue(run.pk))
    return run


def enqueue(run_id: int) -> None:
    from rag.tasks import evaluate_collection  # which imports this module

    background.queue(evaluate_collection, run_id)


def perform(run_id: int) -> None:
    """Work on a run unless somebody else does, or it is done already."""
    with background.claimed(f"rag.evaluation.{run_id}") as is_ours:
        run = EvaluationRun.objects.filter(pk=run_id, state__in=LIVE).first() if is_ours else None
        if run is None:
            return
        if run.attempts >= MAX_ATTEMPTS:
            _finish(run_id, EvaluationState.FAILED, failure="It ended its worker each time. The worker's log says how.")
            return
        now = timezone.now()
        EvaluationRun.objects.filter(pk=run_id).update(
            state=EvaluationState.RUNNING, attempts=F("attempts") + 1, started_at=now, progressed_at=now, done=0
        )
        try:
            measured = measure(run.collection, _Reporter(run_id))
        except GoneError:
            logger.info("Evaluation %s was deleted while it ran", run_id)
        except Problem as problem:
            _finish(run_id, EvaluationState.FAILED, failure=str(problem))
        except Error:
            # The database went away: the run stays as it is, and is begun again.
            raise
        except Exception as error:
            logger.exception("Evaluation %s failed", run_id)
            _finish(run_id, EvaluationState.FAILED, failure=f"{type(error).__name__}: {error}")
        else:
            _finish(run_id, EvaluationState.FINISHED, **measured.columns())


def take_stalled(now: datetime, stalled_after: timedelta = STALLED_AFTER) -> list[int]:
    """As `models_registry.background.take_stalled`."""
    return background.take_stalled(EvaluationRun.objects.filter(state__in=LIVE), now, stalled_after)


class _Reporter:
    """Writes progress to the run's row, at most once in `PROGRESS_EVERY_S`."""

    def __init__(self, run_id: int) -> None:
        self._run_id = run_id
        self._next = timezone.now()

    def __call__(self, done: int, total: int) -> None:
        now = timezone.now()
        if now < self._next:
            return
        self._next = now + timedelta(seconds=PROGRESS_EVERY_S)
        row = EvaluationRun.objects.filter(pk=self._run_id)
        if not row.update(done=done, total=total, progressed_at=now):
            raise GoneError


def _finish(run_id: int, state: EvaluationState, **columns: object) -> None:
    now = timezone.now()
    EvaluationRun.objects.filter(pk=run_id).update(state=state, progressed_at=now, finished_at=now, **columns)
