"""PostgreSQL goes away under a running server, and comes back: nobody restarts anything."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.conftest import Server
from tests.patience import eventually

pytestmark = pytest.mark.faults

NEEDS_THE_DATABASE = "/rag/collections"


def at_once(server: Server) -> set[int]:
    """The statuses of twenty requests at once."""
    with ThreadPoolExecutor(20) as pool:
        return set(pool.map(lambda _: server.call(NEEDS_THE_DATABASE).status, range(20)))


def test_it_answers_503_with_when_to_come_back_and_recovers_by_itself(server: Server) -> None:
    assert server.wait_for(NEEDS_THE_DATABASE, 200)
    assert server.health() == server.health() | {"postgresql": "ok", "migrations": "ok", "redis": "ok"}

    server.stack.postgres.stop()
    try:
        lost = server.call(NEEDS_THE_DATABASE)
        assert (lost.status, lost.headers["Content-Type"]) == (503, "application/problem+json")
        assert int(lost.headers["Retry-After"]) > 0
        assert lost.body["type"] == "urn:zenglow:problem:unavailable"
        assert "connection" not in lost.body["detail"]
        # A session and a key are looked up before any view runs.
        for headers in ({"Cookie": "sessionid=abc"}, {"X_API_Key": f"zg_{'a' * 10}_{'b' * 43}"}):
            assert server.call(NEEDS_THE_DATABASE, **headers).status == 503
        page = server.call("/search/", Accept="text/html")
        assert page.status == 503
        assert page.headers["Content-Type"].startswith("text/html")
        assert server.call("/health/live").status == 200
        assert server.call("/health/ready").status == 503
        assert server.health() == server.health() | {"postgresql": "failed", "redis": "ok"}
        # More at once than the pool has connections: they are refused, not stuck.
        assert at_once(server) == {503}
    finally:
        server.stack.ensure()

    assert server.wait_for(NEEDS_THE_DATABASE, 200)
    assert server.health()["postgresql"] == "ok"
    # On a busy machine, making the connections may take longer than the first of them are waited for.
    eventually(lambda: at_once(server) == {200})


def test_it_writes_every_line_of_the_log_with_its_request(server: Server) -> None:
    answer = server.call(NEEDS_THE_DATABASE, X_Correlation_ID="fault-test-1")
    assert answer.headers["X-Correlation-ID"] == "fault-test-1"
    lines = [line for line in server.log.read_text().splitlines() if "fault-test-1" in line]
    assert len(lines) == 1
    assert answer.headers["X-Request-ID"] in lines[0]


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_it_survives_the_end_of_its_connections(how: str, server: Server) -> None:
    """Terminated as by a failover; or one is killed, and PostgreSQL restarts and ends them all.

    The pool notices dead connections, and the next request gets a living one.
    """
    server.wait_for(NEEDS_THE_DATABASE, 200)
    others = "FROM pg_stat_activity WHERE datname = 'zenglow' AND pid <> pg_backend_pid()"
    if how == "terminated":
        server.query(f"SELECT pg_terminate_backend(pid) {others}")
    else:
        backends = server.query(f"SELECT pid {others} AND backend_type = 'client backend'")
        os.kill(backends[0][0], signal.SIGKILL)
    assert server.call(NEEDS_THE_DATABASE).status in {200, 503}
    server.wait_for(NEEDS_THE_DATABASE, 200)
    assert json.loads(server.call("/health/live").text) == {"status": "ok"}
