"""The Celery application. Tasks live in each app's ``tasks.py``; the schedule is put together here."""

import os
import signal
import sys

from celery import Celery
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)
from django.conf import settings

from ops import tracing

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")

app = Celery("zenglow")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def unwind_on_sigterm(**_: object) -> None:
    """A task that a shutdown cuts off hands back what it had claimed, and does not look like one that kills workers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@setup_logging.connect
def leave_logging_alone(**_: object) -> None:
    """Django has set it up. Celery would raise the root level to the worker's own: no task would have its line."""


@worker_init.connect
@worker_process_init.connect
def start_tracing(**_: object) -> None:
    """In the main process as well: it sends what is due, and runs the tasks of a pool without processes."""
    tracing.start(settings.ENVIRONMENT, "worker")


@worker_shutdown.connect
@worker_process_shutdown.connect
def stop_tracing(**_: object) -> None:
    """Send the last spans: a worker's child process ends without Python's own exit hooks."""
    tracing.stop()


@worker_process_init.connect
def follow_the_registry(**_: object) -> None:
    """Hear at once of what becomes live, and tell of the models that this process holds."""
    from models_registry import processes
    from models_registry.live import view
    from rag import supabase_key

    view.follow()
    supabase_key.start()
    processes.announce("worker")


@worker_ready.connect
def resume_at_once(**_: object) -> None:
    """The worker that replaces a killed one goes on with its runs before they count as stalled."""
    for name in ("rag.resume_index_runs", "rag.resume_evaluations", "registry.resume_space_builds"):
        app.send_task(name, kwargs={"at_once": True})
