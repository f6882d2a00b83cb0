"""The Celery application. Tasks live in each app's ``tasks.py``; the schedule is put together here."""

import os
import signal
import sys

from celery import Celery
from celery.signals import worker_process_init, worker_ready

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")

app = Celery("zenglow")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def unwind_on_sigterm(**_: object) -> None:
    """A task that a shutdown cuts off hands back what it had claimed, and does not look like one that kills workers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


@worker_process_init.connect
def follow_the_registry(**_: object) -> None:
    """Hear at once of what becomes live, and tell of the models that this process holds."""
    from models_registry import processes
    from models_registry.live import view

    view.follow()
    processes.announce("worker")


@worker_ready.connect
def resume_at_once(**_: object) -> None:
    """The worker that replaces a killed one goes on with its runs before they count as stalled."""
    for name in ("rag.resume_index_runs", "rag.resume_evaluations"):
        app.send_task(name, kwargs={"at_once": True})
