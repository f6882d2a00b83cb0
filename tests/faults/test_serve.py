"""The life of `manage.py serve`: started, stopped, killed, started again; and every way in which it must not start."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import psutil
import psycopg
import pytest

from tests.embedded.support import command_of, name_of
from tests.patience import eventually
from tests.serving import Zenglow, all_gone, many_documents
from zenglow_site.environment import BASE_DIR
from zenglow_site.web_processes import web_processes as how_many

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

MakeZenglow = Callable[..., Zenglow]

DOCUMENTS = {
    "owls": "Owls hunt at night. Their feathers are made so that they fly without a sound.",
    "bees": "Bees dance to tell each other where flowers are. The angle of the dance is that to the sun.",
    "whales": "Whales sing over hundreds of kilometres. Their songs change from year to year.",
}


def test_ctrl_c_ends_all_of_it_and_the_next_start_finds_its_data(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow()
    zenglow.start()
    assert zenglow.finished(zenglow.index(DOCUMENTS))["added"] == len(DOCUMENTS)
    assert {"postgres", "redis-server"} <= {name_of(process) for process in zenglow.family()}

    # What it prints can be followed to the letter.
    addresses = [line.split()[-1] for line in zenglow.lines if "http://127.0.0.1" in line and "curl" not in line]
    assert [address.removeprefix(f"http://127.0.0.1:{zenglow.port}") for address in addresses] == [
        *("/", "/search/", "/voice/", "/documents/", "/admin/", "/api/docs/")
    ]
    pages = ("/", "/search/", "/voice/", "/documents/", "/admin/")
    assert all(zenglow.call(address).status in {200, 302} for address in pages)
    (curl,) = (shlex.split(line)[1:] for line in zenglow.lines if "curl" in line)
    assert curl[:3] == ["curl", "-s", f"http://127.0.0.1:{zenglow.port}/rag/query2"]
    assert curl[3:-1] == ["-H", "Content-Type: application/json", "-d"]
    assert zenglow.call("/rag/query2", json.loads(curl[-1]) | {"collection": "papers"}).body["results"]

    # A second one on the same data is told where the first is, and leaves it alone.
    second = zenglow.run("serve")
    assert second.returncode == 2
    assert f"already runs on the data in {zenglow.data_dir} (process {zenglow.process.pid}" in second.stderr
    assert f"at http://127.0.0.1:{zenglow.port}" in second.stderr
    assert "Traceback" not in second.stderr
    stopping = zenglow.run("stack", "stop")
    assert stopping.returncode == 2
    assert f"ZenGlow runs on these stores (process {zenglow.process.pid}" in stopping.stderr

    run = zenglow.index(many_documents())
    zenglow.is_in_the_middle_of(run)
    family = zenglow.family()
    assert zenglow.end(signal.SIGINT) == 0
    assert zenglow.lines[-2:] == ["Stopping …", "Stopped."]
    assert all_gone(family)
    assert zenglow.family() == []

    zenglow.start()
    assert zenglow.query("silent flight").body["results"][0]["document_id"] == "owls"
    # What was cut off goes on; it does not look like documents that kill their workers.
    assert zenglow.finished(run)["failed"] == 0
    with psycopg.connect(zenglow.stack.postgres.dsn("zenglow")) as connection:
        assert connection.execute("SELECT max(attempts) FROM rag_indexitem").fetchone() == (1,)
    # Nothing had to be done again, and nobody is shown a log.
    assert [line for line in zenglow.lines[: zenglow.lines.index("")] if line] == [
        "Starting PostgreSQL and Redis …",
        "Starting the web server and the worker …",
    ]
    assert zenglow.end(signal.SIGTERM) == 0
    assert zenglow.family() == []


def test_several_web_processes_share_the_port_and_stand_in_for_each_other(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="2")
    zenglow.start()
    assert zenglow.finished(zenglow.index(DOCUMENTS))["added"] == len(DOCUMENTS)
    killed, other = web_processes(zenglow)

    for _ in range(12):
        assert zenglow.query("bees").status == 200
    # Whichever is asked counts for both.
    zenglow.eventually(
        lambda: zenglow.call("/metrics/json"), lambda answer: answer.body["query_stats"]["queries"] == 12
    )

    killed.kill()
    assert zenglow.query("owls").body["results"][0]["document_id"] == "owls"
    zenglow.wait_for_line("process ended with -9; starting it again")
    eventually(lambda: len(web_processes(zenglow)) == 2)
    assert killed.pid not in {process.pid for process in web_processes(zenglow)}
    assert other.pid in {process.pid for process in web_processes(zenglow)}

    family = zenglow.family()
    assert zenglow.end(signal.SIGINT) == 0
    assert all_gone(family)


def test_where_nobody_says_it_starts_as_many_web_processes_as_suit_the_machine(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_WEB_PROCESSES="")
    zenglow.start()
    suitable = how_many(0, share_an_address=True)
    assert len(web_processes(zenglow)) == suitable
    # Each is told how many they are: they divide the machine among themselves.
    assert {process.environ()["ZENGLOW_WEB_PROCESSES"] for process in web_processes(zenglow)} == {str(suitable)}
    assert zenglow.query("owls").status == 200
    assert zenglow.end() == 0


def web_processes(zenglow: Zenglow) -> list[psutil.Process]:
    children = psutil.Process(zenglow.process.pid).children()
    return [child for child in children if "daphne" in command_of(child)]


def test_several_web_processes_are_refused_where_they_cannot_share_an_address(make_zenglow: MakeZenglow) -> None:
    refused = make_zenglow(ZENGLOW_WEB_PROCESSES="2", ZENGLOW_HOST="::1").run("serve")

    assert refused.returncode == 2
    assert "Set ZENGLOW_WEB_PROCESSES=1" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_it_takes_over_from_one_that_was_killed(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow()
    zenglow.start()
    zenglow.finished(zenglow.index(DOCUMENTS))
    stores = {zenglow.stack.postgres.process_id(), zenglow.stack.redis.process_id()}
    ours = [zenglow.web, zenglow.worker, *zenglow.worker.children(recursive=True)]

    assert zenglow.end(signal.SIGKILL) == -signal.SIGKILL
    assert all(process.is_running() for process in ours[:2]), "its children outlive it, which is what is tried here"

    zenglow.start()
    assert "Ending what an earlier run left behind …" in zenglow.lines
    assert all_gone(ours)
    assert {zenglow.stack.postgres.process_id(), zenglow.stack.redis.process_id()} == stores, "used again"
    assert zenglow.query("dance of bees").body["results"][0]["document_id"] == "bees"
    assert zenglow.end() == 0
    assert zenglow.family() == []


def test_it_starts_nothing_when_the_port_is_taken(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(is_new=True)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", zenglow.port))
        listener.listen()
        refused = zenglow.run("serve")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == [
        f"CommandError: 127.0.0.1:{zenglow.port} can't be used (Address already in use). "
        f"Choose another port: make run PORT={zenglow.port + 1}"
    ]
    assert refused.stdout == ""
    assert zenglow.family() == []
    assert not (zenglow.data_dir / "postgres").exists()


@pytest.mark.parametrize("moment", ["Starting PostgreSQL and Redis …", "Migrating the database …"])
def test_it_can_be_stopped_while_it_starts(moment: str, make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(is_new=True)
    zenglow.launch()
    zenglow.wait_for_line(moment)
    family = zenglow.family()
    assert zenglow.end(signal.SIGTERM) == 0
    assert all_gone(family)
    assert zenglow.family() == []
    assert "Traceback" not in zenglow.output


def test_a_first_start_that_was_stopped_halfway_is_completed_by_the_next(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(is_new=True)
    scratch = zenglow.data_dir.parent / "scratch"
    scratch.mkdir()
    zenglow.variables["TMPDIR"] = str(scratch)
    zenglow.launch()
    zenglow.wait_for_line("Exporting the embedder")
    eventually(lambda: any("onnx_export" in " ".join(command_of(one)) for one in zenglow.family()))
    family = zenglow.family()
    assert zenglow.end(signal.SIGTERM) == 0
    assert all_gone(family)
    assert zenglow.family() == []
    assert list(scratch.glob("zenglow-export-*")) == [], "the half-made export is gone"
    assert "Traceback" not in zenglow.output

    zenglow.start()
    shown = [line.split()[-1] for line in zenglow.lines if "Password:" in line]
    assert len(shown) == 1
    # The password was shown this once: no log has it, and neither has the next start.
    assert not any(shown[0] in log.read_text(errors="replace") for log in (zenglow.data_dir / "log").iterdir())
    zenglow.wait_for_line("Indexing ZenGlow's own documentation and code")
    assert zenglow.end() == 0
    assert zenglow.family() == []

    zenglow.start()
    assert "Password:" not in zenglow.output
    zenglow.wait_for_line("Indexing ZenGlow's own documentation and code")
    assert zenglow.end() == 0


def test_it_wants_keys_when_others_can_reach_it(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(ZENGLOW_HOST="0.0.0.0")
    zenglow.start()
    assert "apikey create" in zenglow.output

    refused = zenglow.query("anything")
    assert (refused.status, refused.headers["Content-Type"]) == (401, "application/problem+json")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    page = zenglow.call("/search/", Accept="text/html")
    assert (page.status, page.headers["Location"]) == (302, "/sign-in/?next=/search/")
    assert zenglow.call("/health/live").status == 200

    # The line that it prints makes a key for these data, wherever they are.
    (line,) = (line.strip() for line in zenglow.lines if "apikey create" in line)
    program = f'{line.replace(".venv/bin/python", shlex.quote(sys.executable))}\nprintf %s "$KEY"'
    key = subprocess.check_output(["sh", "-c", program], cwd=BASE_DIR, env={"PATH": os.defpath}, text=True)
    assert zenglow.query("anything", X_API_Key=key).status == 200
    assert zenglow.query("anything", X_API_Key=key, Host="zenglow.example").status == 200
    assert zenglow.end() == 0


def test_it_ends_with_a_message_where_its_folder_cannot_be_used(make_zenglow: MakeZenglow) -> None:
    zenglow = make_zenglow(is_new=True)
    zenglow.data_dir.touch()
    refused = zenglow.run("serve")
    assert refused.returncode == 2
    assert "choose another folder for the data" in refused.stderr
    assert "Traceback" not in refused.stderr
