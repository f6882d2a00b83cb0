"""Spoken conversations with several web processes: all in the first, whichever accepts the connection."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.embedded.support import command_of
from tests.patience import PATIENCE_S, eventually
from tests.serving import Zenglow
from zenglow_site import routing
from zenglow_site.environment import BASE_DIR
from zenglow_site.handover import HANDED_PATHS
from zenglow_site.web_processes import HANDOVER_VARIABLE

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

MakeZenglow = Callable[..., Zenglow]

CONNECTIONS = 8
"""One after another: so many would not all be accepted by the same of two processes."""


def test_only_sockets_that_exist_are_handed_over() -> None:
    assert {path.decode().lstrip("/") for path in HANDED_PATHS} <= {
        str(route.pattern) for route in routing.websocket_urlpatterns
    }


def test_a_conversation_takes_place_in_the_first_process_and_goes_on_there(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    first, _ = web_processes(zenglow)
    eventually(lambda: both_answer(zenglow))

    with speaking(zenglow) as (begun, _):
        assert not begun["resumed"]
    for _ in range(CONNECTIONS):
        # The connection before was cut, as that of somebody whose network is gone.
        with speaking(zenglow, begun["token"]) as (resumed, speaker):
            assert (resumed["resumed"], resumed["session"]) == (True, begun["session"])
            assert owner_of(speaker) == first
            assert zenglow.call("/leonardo/status").body["sessions"] == 1, "whichever is asked"
    with speaking(zenglow, begun["token"]) as (_, speaker):
        speaker.communicate("\n", timeout=PATIENCE_S)
        assert speaker.returncode == 0
    zenglow.eventually(lambda: zenglow.call("/leonardo/status"), lambda answer: answer.body["sessions"] == 0)
    assert "Traceback" not in zenglow.logs()


def test_who_speaks_while_the_first_process_is_started_again_is_heard_by_it(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    killed, second = web_processes(zenglow)
    eventually(lambda: both_answer(zenglow))
    killed.kill()

    with speaking(zenglow) as (begun, speaker):
        assert not begun["resumed"]
        first, same = web_processes(zenglow)
        assert owner_of(speaker) == first != killed
        assert same == second
    assert zenglow.query("owls").status == 200


@contextmanager
def speaking(zenglow: Zenglow, token: str = "") -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """What a speaker is told of its session, and the process, which is killed in the end."""
    command = [sys.executable, "-m", "tests.faults.speaker", str(zenglow.port), *([token] if token else [])]
    with subprocess.Popen(command, cwd=BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as speaker:
        try:
            assert speaker.stdout is not None
            message = json.loads(speaker.stdout.readline())
            assert message["type"] == "session.started", message
            yield message, speaker
        finally:
            speaker.kill()


def web_processes(zenglow: Zenglow) -> list[psutil.Process]:
    """The first one first."""
    found = [child for child in psutil.Process(zenglow.process.pid).children() if "daphne" in command_of(child)]
    return sorted(found, key=lambda process: process.environ()[HANDOVER_VARIABLE].startswith("give"))


def both_answer(zenglow: Zenglow) -> bool:
    """Ask something; whether each process has had a request by now, so that each accepts what comes."""
    assert zenglow.query("bees").status == 200
    logs = [zenglow.data_dir / "log" / name for name in ("web.log", "web-2.log")]
    return all("/rag/query2" in log.read_text() for log in logs)


def owner_of(speaker: subprocess.Popen[str]) -> psutil.Process:
    """The server's process that has the speaker's connection."""
    (mine,) = psutil.Process(speaker.pid).net_connections("tcp4")
    (theirs,) = (one for one in psutil.net_connections("tcp4") if one.laddr == mine.raddr and one.raddr == mine.laddr)
    return psutil.Process(theirs.pid)
