"""Celery tasks as Prometheus metrics: how long they waited, how long they ran, how they ended."""

from __future__ import annotations

import time
from typing import Any

from celery.signals import task_postrun, task_prerun

from ops.contracts.metrics import declare_counter, declare_latency
from ops.queues import SENT_AT

WAIT = declare_latency("zenglow_task_wait_seconds", "How long a task waited in its queue.", ("task",))
DURATION = declare_latency("zenglow_task_duration_seconds", "How long a task ran.", ("task",))
TASKS = declare_counter("zenglow_tasks", "Tasks that ended, by their state.", ("task", "state"))

_started: dict[str, float] = {}


@task_prerun.connect
def _begin(task_id: str = "", task: Any = None, **_: Any) -> None:
    _started[task_id] = time.perf_counter()
    sent_at = (getattr(task.request, "headers", None) or {}).get(SENT_AT) or getattr(task.request, SENT_AT, None)
    if sent_at is not None:
        WAIT.labels(task.name).observe(max(time.time() - float(sent_at), 0.0))


@task_postrun.connect
def _end(task_id: str = "", task: Any = None, state: str | None = None, **_: Any) -> None:
    started = _started.pop(task_id, None)
    if started is not None:
        DURATION.labels(task.name).observe(time.perf_counter() - started)
    TASKS.labels(task.name, (state or "unknown").lower()).inc()
