"""The ids of a request in the tasks that it started, and one log line for each task.

The ids travel in the message's headers. A task that nobody asked for has a correlation id of its own: the task's.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import structlog
from celery.signals import before_task_publish, task_postrun, task_prerun

from ops.contracts.facts import collecting

_HEADERS = {"request_id": "zenglow_request_id", "correlation_id": "zenglow_correlation_id"}

log = structlog.get_logger("zenglow.task")


@before_task_publish.connect
def send_ids(headers: dict[str, Any] | None = None, **_: Any) -> None:
    """Put the ids that are bound here into the message."""
    bound = structlog.contextvars.get_contextvars()
    if headers is not None:
        headers.update({header: bound[name] for name, header in _HEADERS.items() if name in bound})


@task_prerun.connect
def bind_ids(task_id: str, task: Any, **_: Any) -> None:
    """Bind the ids of the message, and the task's own, to the logs until the task ends."""
    request = task.request
    ids = {name: value for name, header in _HEADERS.items() if (value := request.get(header))}
    stack = ExitStack()
    stack.enter_context(
        structlog.contextvars.bound_contextvars(**({"correlation_id": task_id} | ids), task=task.name, task_id=task_id)
    )
    request.zenglow = (stack, stack.enter_context(collecting()), time.perf_counter())


@task_postrun.connect
def write_line(task: Any, state: str | None = None, **_: Any) -> None:
    """One line. Neither arguments nor results: they may hold anything."""
    stack, facts, started = getattr(task.request, "zenglow", (None, {}, 0.0))
    if stack is None:
        return
    with stack:
        write = log.error if state == "FAILURE" else log.info
        duration_ms = round((time.perf_counter() - started) * 1000, 2)
        line = {"state": state, "duration_ms": duration_ms, "retries": task.request.retries}
        write("task", **{**facts, **line})
