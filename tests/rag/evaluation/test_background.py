"""Evaluations that workers make: asked for, followed, taken over, given up."""

from __future__ import annotations

from datetime import timedelta

import pytest
from celery import current_app
from django.db import connection
from django.utils import timezone

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound
from ops.models import AuditEvent
from rag import tasks
from rag.evaluation import background
from rag.evaluation.run import evaluate
from rag.models import Collection, EvaluationRun, EvaluationState, Judgement
from tests.rag.evaluation.support import judged_subject

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache", "_purged")]


@pytest.fixture(scope="module")
def bees(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    return judged_subject("bees", "bees")


@pytest.fixture
def _purged(embedded_stack: object) -> object:
    yield
    current_app.control.purge()


def again(run: EvaluationRun) -> EvaluationRun:
    return EvaluationRun.objects.get(pk=run.pk)


def test_a_worker_finds_what_the_command_would(bees: Collection) -> None:
    run = background.start("bees", SYSTEM, label="nightly")
    assert (run.state, run.total, run.done, run.is_live) == (EvaluationState.PENDING, 12, 0, True)
    tasks.evaluate_collection(run.pk)
    made, expected = again(run), evaluate("bees")
    assert (made.state, made.done, made.label, made.failure) == (EvaluationState.FINISHED, 12, "nightly", "")
    assert (made.metrics, made.per_query) == (expected.metrics, expected.per_query)
    assert (made.dataset_sha256, made.snapshot) == (expected.dataset_sha256, expected.snapshot)
    assert made.duration_s is not None
    assert AuditEvent.objects.get(action="evaluation.start").target == str(run.pk)


def test_the_task_is_queued_with_the_commit(bees: Collection, django_capture_on_commit_callbacks: object) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[operator]
        run = background.start("bees", SYSTEM)
        assert not current_app.control.purge()
    # How many messages waited for a worker.
    assert current_app.control.purge() == 1
    assert run.is_live


def test_a_finished_run_is_not_made_again(bees: Collection) -> None:
    run = background.start("bees", SYSTEM)
    background.perform(run.pk)
    finished_at = again(run).finished_at
    background.perform(run.pk)
    assert again(run).finished_at == finished_at


def test_a_run_whose_worker_died_is_begun_again(bees: Collection) -> None:
    run = background.start("bees", SYSTEM)
    long_ago = timezone.now() - timedelta(minutes=5)
    EvaluationRun.objects.filter(pk=run.pk).update(
        state=EvaluationState.RUNNING, attempts=1, done=7, progressed_at=long_ago
    )
    assert background.take_stalled(timezone.now()) == [run.pk]
    assert background.take_stalled(timezone.now()) == []
    background.perform(run.pk)
    assert (again(run).state, again(run).done) == (EvaluationState.FINISHED, 12)


def test_a_run_that_ends_its_workers_is_given_up(bees: Collection) -> None:
    run = background.start("bees", SYSTEM)
    EvaluationRun.objects.filter(pk=run.pk).update(state=EvaluationState.RUNNING, attempts=background.MAX_ATTEMPTS)
    background.perform(run.pk)
    assert again(run).state == EvaluationState.FAILED
    assert "ended its worker" in again(run).failure


def test_two_workers_do_not_make_one_run_at_once() -> None:
    """Another session holds the run's lock, as another worker would."""
    run = EvaluationRun.objects.create(collection="nowhere", state=EvaluationState.PENDING, dataset_sha256="")
    name = f"rag.evaluation.{run.pk}"
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", [name])
            background.perform(run.pk)
            assert again(run).state == EvaluationState.PENDING
            cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
    finally:
        other.close()
    background.perform(run.pk)
    # Nobody holds it any more: it is tried, and there is nothing to measure.
    assert again(run).state == EvaluationState.FAILED


def test_what_vanished_meanwhile_is_told(bees: Collection) -> None:
    run = background.start("bees", SYSTEM)
    Judgement.objects.all().delete()
    background.perform(run.pk)
    assert again(run).state == EvaluationState.FAILED
    assert "no judged queries" in again(run).failure


def test_a_deleted_run_stops(bees: Collection) -> None:
    reporter = background._Reporter(0)
    with pytest.raises(background.GoneError):
        reporter(1, 12)


def test_without_judgements_nothing_is_started() -> None:
    Collection.objects.create(slug="unjudged")
    with pytest.raises(NotFound, match="no judged queries"):
        background.start("unjudged", SYSTEM)
    assert not EvaluationRun.objects.exists()
