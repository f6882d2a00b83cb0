"""Spoken conversations with several web processes: all in the first, whichever accepts the connection."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psutil
import pytest

from tests.embedded.support import command_of
from tests.patience import PATIENCE_S, eventually
from tests.serving import Zenglow
from zenglow_site import routing
from zenglow_site.environment import BASE_DIR
from zenglow_site.handover import HANDED_PATH
from zenglow_site.web_processes import HANDOVER_VARIABLE

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

MakeZenglow = Callable[..., Zenglow]


def test_what_is_handed_over_is_a_socket_that_exists() -> None:
    assert HANDED_PATH.decode() in {str(route.pattern) for route in routing.websocket_urlpatterns}


def test_a_conversation_takes_place_in_the_first_process_and_goes_on_there(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    first, second = web_processes(zenglow)
    answers_alone(zenglow, other=first)

    with speaking(zenglow, not_accepted_by=first) as (begun, speaker):
        assert not begun["resumed"]
        assert owner_of(speaker) == first
    for other in (first, second):
        # The connection before was cut, as that of somebody whose network is gone.
        with speaking(zenglow, begun["token"], not_accepted_by=other) as (resumed, speaker):
            assert (resumed["resumed"], resumed["session"]) == (True, begun["session"])
            assert owner_of(speaker) == first
            assert {sessions_told(zenglow, not_by=process) for process in (first, second)} == {1}
    with speaking(zenglow, begun["token"], not_accepted_by=first) as (_, speaker):
        speaker.communicate("\n", timeout=PATIENCE_S)
        assert speaker.returncode == 0
    zenglow.eventually(lambda: zenglow.call("/leonardo/status"), lambda answer: answer.body["sessions"] == 0)
    assert zenglow.end() == 0
    assert "Traceback" not in zenglow.logs()


def test_who_speaks_while_the_first_process_is_started_again_is_heard_by_it(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    killed, second = web_processes(zenglow)
    answers_alone(zenglow, other=killed)
    killed.kill()

    with speaking(zenglow) as (begun, speaker):
        assert not begun["resumed"]
        first, same = web_processes(zenglow)
        assert owner_of(speaker) == first != killed
        assert same == second
    assert zenglow.query("owls").status == 200


def test_where_no_more_can_be_handed_over_the_others_go_on_answering(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    first, _ = web_processes(zenglow)
    answers_alone(zenglow, other=first)
    head = (
        f"GET /ws/voice HTTP/1.1\r\nHost: 127.0.0.1:{zenglow.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nX-Long: {'x' * 12_000}\r\n\r\n"
    )
    with ExitStack() as stack, suspended(first):
        for _ in range(60):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", zenglow.port)))
            one.sendall(head.encode())
        # Some fit, and wait for the first process; the second keeps the others, and says so.
        eventually(lambda: "stays in this process" in (zenglow.data_dir / "log" / "web-2.log").read_text())
        assert zenglow.query("whales").status == 200
    assert zenglow.query("whales").status == 200


@contextmanager
def speaking(
    zenglow: Zenglow, token: str = "", not_accepted_by: psutil.Process | None = None
) -> Iterator[tuple[dict[str, Any], subprocess.Popen[str]]]:
    """What a speaker is told of its session, and the process, which is killed in the end."""
    command = [sys.executable, "-m", "tests.faults.speaker", str(zenglow.port), *([token] if token else [])]
    with ExitStack() as stack:
        away = stack.enter_context(ExitStack())
        if not_accepted_by is not None:
            away.enter_context(suspended(not_accepted_by))
        speaker = stack.enter_context(
            subprocess.Popen(command, cwd=BASE_DIR, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(speaker.kill)
        if not_accepted_by is not None:
            eventually(lambda: bool(psutil.Process(speaker.pid).net_connections("tcp4")))
            # Connections are accepted in the order in which they came.
            assert zenglow.call("/health/live").status == 200
        away.close()
        assert speaker.stdout is not None
        message = json.loads(speaker.stdout.readline())
        assert message["type"] == "session.started", message
        yield message, speaker


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def web_processes(zenglow: Zenglow) -> list[psutil.Process]:
    """The first one first."""
    found = [child for child in psutil.Process(zenglow.process.pid).children() if "daphne" in command_of(child)]
    return sorted(found, key=lambda process: process.environ()[HANDOVER_VARIABLE].startswith("give"))


def answers_alone(zenglow: Zenglow, other: psutil.Process) -> None:
    """Returns once the process that is not ``other`` answers: the server says that it is up when one of them does."""
    with suspended(other):
        assert zenglow.query("bees").status == 200


def sessions_told(zenglow: Zenglow, not_by: psutil.Process) -> int:
    with suspended(not_by):
        return int(zenglow.call("/leonardo/status").body["sessions"])


def owner_of(speaker: subprocess.Popen[str]) -> psutil.Process:
    """The server's process that has the speaker's connection."""
    (mine,) = psutil.Process(speaker.pid).net_connections("tcp4")
    (theirs,) = (one for one in psutil.net_connections("tcp4") if one.laddr == mine.raddr and one.raddr == mine.laddr)
    return psutil.Process(theirs.pid)
