"""A task writes one line, with the ids of the request that wanted it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import structlog
from celery import shared_task

from ops.contracts.facts import note
from ops.task_context import bind_ids, send_ids, write_line


@shared_task(name="tests.task_context.note_variant")
def note_variant(secret: str) -> str:
    note(variant="canary", seen=structlog.contextvars.get_contextvars()["task"])
    return secret


@shared_task(name="tests.task_context.fail")
def fail() -> None:
    raise RuntimeError("as asked")


def the_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (line,) = [record.msg for record in caplog.records if record.name == "zenglow.task"]
    assert isinstance(line, dict)
    return line


def test_the_ids_of_a_request_go_with_the_message() -> None:
    headers: dict[str, Any] = {"id": "1"}
    send_ids(headers=headers)
    assert headers == {"id": "1"}
    with structlog.contextvars.bound_contextvars(request_id="r", correlation_id="c", other="o"):
        send_ids(headers=headers)
    assert headers == {"id": "1", "zenglow_request_id": "r", "zenglow_correlation_id": "c"}


def test_a_task_is_one_line_with_the_ids_of_its_request_and_nothing_of_its_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        note_variant.apply(
            args=["what somebody asked"],
            task_id="t1",
            headers={"zenglow_request_id": "r", "zenglow_correlation_id": "c"},
        )
    line = the_line(caplog)
    assert (line["event"], line["state"], line["task"], line["task_id"]) == (
        *("task", "SUCCESS", "tests.task_context.note_variant", "t1"),
    )
    assert (line["variant"], line["seen"], line["retries"]) == ("canary", "tests.task_context.note_variant", 0)
    assert "somebody" not in str(line)
    assert "task_id" not in structlog.contextvars.get_contextvars()


def test_a_task_that_nobody_asked_for_is_known_by_its_own_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        note_variant.apply(args=["x"], task_id="t2")
    line = the_line(caplog)
    assert line["correlation_id"] == "t2"
    assert "request_id" not in line


def test_a_task_that_fails_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fail.apply(task_id="t3")
    line = the_line(caplog)
    assert (line["state"], line["level"]) == ("FAILURE", "error")


def test_the_ids_are_put_on_whenever_a_task_begins_and_taken_off_when_it_ends() -> None:
    from celery.signals import before_task_publish, task_postrun, task_prerun

    for signal, receiver in ((before_task_publish, send_ids), (task_prerun, bind_ids), (task_postrun, write_line)):
        assert receiver in {reference() for _, reference in signal.receivers}
