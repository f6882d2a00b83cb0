"""A part of a running installation dies or falls silent; the rest goes on, and nobody restarts anything by hand."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE_S
from tests.serving import Answer, Zenglow, all_gone, installations, many_documents
from zenglow_site.embedded.processes import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

DOCUMENTS = {
    "owls": "Owls hunt at night. Their feathers are made so that they fly without a sound.",
    "bees": "Bees dance to tell each other where flowers are. The angle of the dance is that to the sun.",
}
MIB = 1024 * 1024
SHORT_WAITS = {"DATABASE_CONNECT_TIMEOUT_S": "3", "DATABASE_ANSWER_TIMEOUT_S": "5"}
"""How long this server waits for a PostgreSQL that is away: enough for a busy machine, and short for who waits here."""


@pytest.fixture(scope="module")
def zenglow(request: pytest.FixtureRequest) -> Iterator[Zenglow]:
    """A running installation with two indexed documents. Each test leaves it whole."""
    with installations(request) as make:
        running = make(RAG_REQUEST_MAX_BYTES=str(MIB), **SHORT_WAITS)
        running.start()
        record = running.finished(running.index(DOCUMENTS))
        assert (record["added"], record["failed"]) == (2, 0)
        yield running
        assert running.end() == 0


@contextmanager
def frozen(processes: list[psutil.Process]) -> Iterator[None]:
    """Silent, and still holding on to everything that they have open."""
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):  # killed meanwhile
                process.send_signal(signal.SIGCONT)


@contextmanager
def unsupervised(zenglow: Zenglow) -> Iterator[None]:
    """Nobody mends anything meanwhile."""
    with frozen([psutil.Process(zenglow.process.pid)]):
        yield


def answers(answer: Answer) -> bool:
    return answer.status == 200


def is_whole(answer: Answer) -> bool:
    return answer.status == 200 and answer.body["degraded"] == []


def test_its_worker_has_indexed_what_was_posted(zenglow: Zenglow) -> None:
    found = zenglow.eventually(lambda: zenglow.query("flying without noise in the dark"), is_whole)
    assert found.body["results"][0]["document_id"] == "owls"
    # A busy worker may take longer to answer than the check waits.
    zenglow.eventually(lambda: zenglow.call("/health/ready"), lambda ready: ready.body["status"] == "ok")


def test_doctor_finds_its_parts_well(zenglow: Zenglow) -> None:
    """How fast and how full the machine of a test is says nothing; tests/faults/test_doctor.py breaks the parts."""
    parts = {"postgresql", "redis", "workers", "models", "weights", "caches"}
    done = zenglow.run("doctor", "--json")
    level = {one["about"]: one["level"] for one in json.loads(done.stdout)}
    assert {name for name in parts if level[name] == "trouble"} == set(), done.stdout


def test_it_refuses_strangers_that_come_through_this_machines_browser(zenglow: Zenglow) -> None:
    """DNS rebinding shows in the Host header, a form of another site in the Origin header."""
    assert zenglow.query("bees", Host="zenglow.example").status == 400
    assert zenglow.query("bees", Host=f"127.0.0.1:{zenglow.port}").status == 200
    crossed = zenglow.query("bees", Origin="https://elsewhere.example")
    assert (crossed.status, crossed.headers["Content-Type"]) == (403, "application/problem+json")
    assert zenglow.query("bees", Origin=f"http://127.0.0.1:{zenglow.port}").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells and resets the peak of a process's memory")
@pytest.mark.parametrize("headers", [{"Content-Length": str(64 * MIB)}, {}], ids=["whole", "in chunks"])
def test_a_request_that_is_too_large_is_refused_and_takes_no_memory(headers: dict[str, str], zenglow: Zenglow) -> None:
    process = Path(f"/proc/{zenglow.web.pid}")

    def peak_kib() -> int:
        return int(re.search(r"VmHWM:\s+(\d+) kB", (process / "status").read_text()).group(1))  # type: ignore[union-attr]

    (process / "clear_refs").write_text("5")  # the peak is now what it takes at this moment
    before_kib = peak_kib()
    connection = http.client.HTTPConnection("127.0.0.1", zenglow.port, timeout=PATIENCE_S)
    body = itertools.repeat(bytes(MIB), 64)
    connection.request("POST", "/rag/query2", body, {"Content-Type": "application/json", **headers})
    answer = connection.getresponse()
    refusal = json.loads(answer.read())
    connection.close()
    assert (answer.status, refusal["limit_bytes"]) == (413, MIB)
    assert peak_kib() - before_kib < 32 * 1024


def test_a_web_server_that_was_killed_is_started_again(zenglow: Zenglow) -> None:
    killed = zenglow.web
    killed.kill()
    zenglow.wait_for_line("The web process ended with -9; starting it again")
    zenglow.eventually(lambda: zenglow.query("bees"), answers)
    assert zenglow.web.pid != killed.pid


def test_a_run_is_completed_by_the_worker_that_replaces_a_killed_one(zenglow: Zenglow) -> None:
    documents = many_documents()
    run = zenglow.index(documents)
    zenglow.is_in_the_middle_of(run)
    worker = zenglow.worker
    family = [worker, *worker.children(recursive=True)]

    worker.kill()

    record = zenglow.finished(run)
    assert (record["added"], record["failed"], record["total"]) == (len(documents), 0, len(documents))
    assert all_gone(family)
    found = zenglow.query("log of lighthouse 15")
    assert found.body["results"][0]["document_id"].startswith("lighthouse-")


@pytest.mark.parametrize("state", ["killed", "silent"])
def test_without_redis_it_answers_and_says_what_it_lacks(state: str, zenglow: Zenglow) -> None:
    zenglow.eventually(lambda: zenglow.query("dance"), is_whole)
    process_id = zenglow.stack.redis.process_id()
    assert process_id is not None
    redis = psutil.Process(process_id)
    with unsupervised(zenglow), frozen([redis]):
        if state == "killed":
            redis.kill()
            assert all_gone([redis])
        held = zenglow.query("dance")
        assert (held.status, held.body["degraded"], held.body["cache"]) == (200, [], "full")
        lost = zenglow.query("a dance")
        assert (lost.status, lost.body["degraded"], lost.body["cache"]) == (200, ["cache"], "none")
        assert lost.body["results"][0]["document_id"] == "bees"
        assert zenglow.call("/search/?q=dance", Accept="text/html").status == 200
        ready = zenglow.eventually(lambda: zenglow.call("/health/ready"), answers)
        assert ready.body["status"] == "degraded"
        assert states(ready)["redis"] == "failed"
        assert states(ready)["postgresql"] == "ok"
    zenglow.eventually(lambda: zenglow.query("dance"), is_whole)
    zenglow.eventually(lambda: zenglow.query("dance"), lambda answer: answer.body["cache"] == "full")
    # The worker, too, finds it again.
    assert zenglow.finished(zenglow.index({"after": f"Written after Redis was {state}."}))["failed"] == 0


@pytest.mark.parametrize("state", ["killed", "stopped", "silent"])
def test_without_postgresql_it_says_when_to_come_back(state: str, zenglow: Zenglow) -> None:
    zenglow.eventually(lambda: zenglow.query("owls"), is_whole)
    web = zenglow.web
    family = zenglow.postgres_family()
    with unsupervised(zenglow):
        if state == "silent":
            with frozen(family):
                is_lost(zenglow)
        else:
            main = zenglow.stack.postgres.process_id()
            assert main is not None
            # An immediate shutdown and a kill leave the same work to recovery; a fast one leaves none.
            os.kill(main, signal.SIGKILL if state == "killed" else signal.SIGINT)
            assert wait_until(lambda: zenglow.stack.postgres.process_id() is None, PATIENCE_S)
            is_lost(zenglow)
    found = zenglow.eventually(lambda: zenglow.query("owls"), answers)
    assert found.body["results"][0]["document_id"] == "owls"
    zenglow.eventually(lambda: zenglow.call("/health/ready"), answers)
    assert zenglow.web.pid == web.pid, "it recovers in the same process"
    assert zenglow.finished(zenglow.index({"after": f"Written after PostgreSQL was {state}."}))["failed"] == 0


def is_lost(zenglow: Zenglow) -> None:
    for path, body in (("/rag/query2", {"query": "owls", "collection": "papers"}), ("/rag/collections", None)):
        lost = zenglow.call(path, body)
        assert (lost.status, lost.headers["Content-Type"]) == (503, "application/problem+json"), lost
        assert int(lost.headers["Retry-After"]) > 0
        assert lost.body["request_id"]
    page = zenglow.call("/search/?q=owls", Accept="text/html")
    assert (page.status, page.headers["Content-Type"].split(";")[0]) == (503, "text/html")
    assert zenglow.call("/health/live").status == 200
    ready = zenglow.eventually(lambda: zenglow.call("/health/ready"), lambda answer: states(answer)["redis"] == "ok")
    assert (ready.status, ready.body["status"]) == (503, "failed")
    assert states(ready)["postgresql"] == "failed"


def states(ready: Answer) -> dict[str, str]:
    return {check["name"]: check["state"] for check in ready.body["checks"]}
