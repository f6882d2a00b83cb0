"""Real workers, killed in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.db import connection
from django.utils import timezone

from ops.contracts.principal import Principal
from rag.ingest import runs, service
from rag.models import Chunk, Collection, IndexItem, IndexRun, ItemState, RunState
from rag.tasks import resume_index_runs
from tests.patience import PATIENCE_S
from tests.rag.ingest_service.support import assert_consistent
from tests.rag.ingest_service.test_service import counts, text

ROOT = Path(__file__).resolve().parents[3]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert process.poll() is None, "the worker has ended"
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@contextlib.contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker on the test's database and queue, with its own process group; it is gone afterwards."""
    process = subprocess.Popen(
        [
            *[sys.executable, "-m", "celery", "-A", "zenglow_site.celery", "worker"],
            *["--concurrency", "1", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"],
        ],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "ZENGLOW_TEST_DATABASE": connection.settings_dict["NAME"],
            "OMP_NUM_THREADS": "1",
        },
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def resume(run: IndexRun) -> None:
    """What the schedule does some time after the last progress."""
    IndexRun.objects.filter(id=run.id).update(progressed_at=timezone.now() - 2 * runs.STALLED_AFTER)
    resume_index_runs()


@pytest.mark.django_db(transaction=True)
def test_it_finishes_a_run_whose_worker_was_killed(
    collection: Collection, ingester: Principal, empty_queue: None
) -> None:
    documents = 64
    offers = [
        text(f"d{number}", f"Document {number}. " + "Bees make honey in summer. " * 30) for number in range(documents)
    ]
    run = service.start_run(collection, offers, ingester, "test", enqueue=False)

    def done() -> int:
        run.refresh_from_db()
        return run.done

    resume(run)
    with worker() as first:
        wait_until(lambda: done() >= 8, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        assert 8 <= done() < documents
        assert run.state == RunState.RUNNING
    # Nothing is half-written, and what is counted is what is there.
    assert_consistent(collection)
    assert Chunk.objects.values("document").distinct().count() == run.added == run.done
    assert IndexItem.objects.filter(state=ItemState.PENDING).count() == documents - run.done

    # The message that the dead worker held comes back after an hour only.
    resume(run)
    with worker() as second:
        wait_until(lambda: done() == documents, second)
        wait_until(lambda: IndexRun.objects.filter(id=run.id, state=RunState.FINISHED).exists(), second)
    assert counts(IndexRun.objects.get()) == {"added": documents}
    assert_consistent(collection)


@pytest.mark.django_db(transaction=True)
def test_a_short_run_does_not_wait_behind_a_long_one(
    collection: Collection, ingester: Principal, empty_queue: None
) -> None:
    long = service.start_run(collection, [text(f"d{n}", "Words.") for n in range(64)], ingester, "test")
    short = service.start_run(collection, [text("short", "Words.")], ingester, "test")
    with worker() as process:
        wait_until(lambda: not IndexRun.objects.exclude(state=RunState.FINISHED).exists(), process)
    long.refresh_from_db()
    short.refresh_from_db()
    assert (counts(long), counts(short)) == ({"added": 64}, {"added": 1})
    assert short.finished_at is not None
    assert long.finished_at is not None
    assert short.finished_at < long.finished_at


def test_it_resumes_a_run_only_after_it_stalled(collection: Collection, ingester: Principal, empty_queue: None) -> None:
    run = service.start_run(collection, [text("a", "Words.")], ingester, "test", enqueue=False)
    now = timezone.now()
    assert runs.take_stalled_runs(now) == []
    later = now + runs.STALLED_AFTER + timedelta(seconds=1)
    assert runs.take_stalled_runs(later) == [run.id]
    assert runs.take_stalled_runs(later) == []  # it has been queued, and needs no second message


def test_it_gives_up_runs_that_nobody_collects(collection: Collection) -> None:
    run = runs.create_run(collection, "ida", "test")
    assert runs.take_stalled_runs(timezone.now() + runs.ABANDONED_AFTER + timedelta(minutes=1)) == []
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED


WITHOUT_BROKER = """
from django.conf import settings
settings.CELERY_BROKER_URL = "redis://127.0.0.1:1/0"
import django
django.setup()
from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import start_run
from rag.models import Collection
offer = Offer("a", "Some words.", media_type="text/plain")
print(start_run(Collection.objects.get(), [offer], SYSTEM, "test").state)
"""


@pytest.mark.django_db(transaction=True)
def test_it_accepts_documents_while_the_queue_is_away(collection: Collection, empty_queue: None) -> None:
    script = subprocess.run(
        [sys.executable, "-c", WITHOUT_BROKER],
        cwd=ROOT,
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "ZENGLOW_TEST_DATABASE": connection.settings_dict["NAME"],
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert script.stdout.strip().endswith("running")
    run = IndexRun.objects.get()
    # The queue is back: the schedule hands the run over.
    resume(run)
    with worker() as process:
        wait_until(lambda: IndexRun.objects.filter(id=run.id, state=RunState.FINISHED).exists(), process)
    assert counts(IndexRun.objects.get()) == {"added": 1}
