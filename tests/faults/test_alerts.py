"""Alerts are told also when what usually works in the background does not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psutil
import pytest

from tests.faults.test_parts_lost import frozen, unsupervised
from tests.patience import eventually
from tests.serving import Zenglow

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

RULE = """
from ops.models import AlertChannel, AlertRule
AlertChannel.objects.create(name="team", kind="webhook", target={url!r})
AlertRule.objects.create(name="room", measure="disk_used", threshold=0, window_s=60, for_s=0, description="Make room.")
"""


@pytest.fixture
def told() -> Iterator[tuple[str, list[Any]]]:
    """Where a webhook may go, and what it brought."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", got
        server.shutdown()


def test_an_alert_is_told_without_redis_and_without_a_worker(
    make_zenglow: Callable[..., Zenglow], told: tuple[str, list[Any]]
) -> None:
    url, got = told
    zenglow = make_zenglow(OPS_OUTGOING_ALLOWED="127.0.0.1")
    zenglow.start()
    process_id = zenglow.stack.redis.process_id()
    assert process_id is not None
    worker = zenglow.worker
    with unsupervised(zenglow), frozen([worker, *worker.children(recursive=True)]):
        psutil.Process(process_id).kill()
        made = zenglow.run("shell", "-c", RULE.format(url=url))
        assert made.returncode == 0, made.stderr
        eventually(lambda: got != [])
    assert (got[0]["type"], got[0]["data"]["name"]) == ("alert.firing", "room")
