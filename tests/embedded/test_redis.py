"""The embedded Redis: first start, ways to die, ways to come back."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import redis

from tests.embedded.support import finish, kill, processes_below, python
from tests.patience import PATIENCE_S, eventually
from zenglow_site.embedded import redis as redis_module
from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.errors import StartError, StartTimeoutError
from zenglow_site.embedded.processes import is_alive, wait_until
from zenglow_site.embedded.redis import EmbeddedRedis
from zenglow_site.embedded.server import State

Stranger = Callable[[Account], int]

ENSURE = """
import sys
from pathlib import Path
from zenglow_site.embedded.redis import EmbeddedRedis
place = Path(sys.argv[1])
server = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
"""


@contextmanager
def client(server: EmbeddedRedis, database: int = 0) -> Iterator[redis.Redis]:
    connection = redis.Redis.from_url(server.url(database), decode_responses=True)
    try:
        yield connection
    finally:
        connection.close()


def process_of(server: EmbeddedRedis) -> int:
    process_id = server.process_id()
    assert process_id is not None
    return process_id


def kill_once_logged(server: EmbeddedRedis, word: bytes) -> None:
    """Kill it when `word` stands in its log, which it writes after it answered while the disk is busy with a sync."""
    log = server.data / "appendonly.aof"
    eventually(lambda: word in log.read_bytes())
    kill(process_of(server))


# --- starting --------------------------------------------------------------------------------------------------------


def test_it_starts_a_private_durable_server(place: Path) -> None:
    server = EmbeddedRedis(place / "redis", short_base=place)
    url_before = server.url(0)
    assert server.state() is State.DOWN

    server.ensure()

    assert server.url(0) == url_before
    assert server.status().process_id == process_of(server)
    assert psutil.Process(process_of(server)).net_connections(kind="inet") == []
    assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    with client(server) as connection:
        settings = connection.config_get()
        assert settings["appendonly"] == "yes"
        assert settings["appendfsync"] == "everysec"
        assert settings["maxmemory-policy"] == "volatile-lru"
        assert int(settings["maxmemory"]) >= 64 * 1024 * 1024


def test_it_attaches_to_the_running_server(redis_server: EmbeddedRedis, place: Path) -> None:
    first = process_of(redis_server)

    redis_server.ensure()
    other = finish(python(ENSURE + "server.ensure(); print(server.process_id())", place))

    assert int(other) == process_of(redis_server) == first


def test_it_starts_one_server_for_eight_simultaneous_first_starts(place: Path) -> None:
    children = [python(ENSURE + "server.ensure(); print(server.process_id())", place) for _ in range(8)]

    assert len({finish(child) for child in children}) == 1
    assert len(processes_below(place)) == 1


def test_it_keeps_what_was_queued_over_a_stop_and_a_start(redis_server: EmbeddedRedis) -> None:
    with client(redis_server, 1) as connection:
        connection.rpush("queue", "a", "b")

    redis_server.stop()
    assert redis_server.state() is State.DOWN
    redis_server.stop()
    redis_server.ensure()

    with client(redis_server, 1) as connection:
        assert connection.lrange("queue", 0, -1) == ["a", "b"]


@pytest.mark.parametrize(
    "name",
    ["a folder with spaces", 'l\'été, "quoted" 日本', "back\\slash\nline", "long" * 40],
    ids=["spaces", "signs", "slash", "long"],
)
def test_it_works_in_folders_of_any_name(name: str, place: Path) -> None:
    server = EmbeddedRedis(place / name / "redis", short_base=place)

    server.ensure()

    with client(server) as connection:
        connection.set("key", "value")
        assert connection.config_get("dir") == {"dir": str(server.data)}
    assert (server.data / "appendonly.aof").exists() or (server.data / "appendonlydir").exists()
    assert stat.S_IMODE(server.socket_dir.stat().st_mode) == 0o700


def test_it_uses_the_redis_server_of_the_path_where_the_wheel_is_missing(place: Path) -> None:
    # Without site-packages the wheel is really missing; psutil is all that the launcher needs of them.
    (place / "bin").mkdir()
    program = redis_module.redis_server_for(EmbeddedRedis(place).account, place)
    shutil.copy2(program, place / "bin" / "redis-server")
    (place / "packages").mkdir()
    (place / "packages" / "psutil").symlink_to(Path(psutil.__file__).parent)

    code = f"import sys; sys.path.append({str(place / 'packages')!r})\n" + ENSURE
    started = finish(
        python(
            code + "server.ensure(); print(server.process_id())",
            place,
            flags=("-S",),
            environment={"PATH": str(place / "bin")},
        )
    )

    assert psutil.Process(int(started)).exe() == str(place / "bin" / "redis-server")


# --- dying and coming back -------------------------------------------------------------------------------------------


def test_it_recovers_with_its_data_when_the_server_is_killed(redis_server: EmbeddedRedis) -> None:
    with client(redis_server, 1) as connection:
        connection.rpush("queue", "a", "b")
    killed = process_of(redis_server)
    kill_once_logged(redis_server, b"queue")
    assert redis_server.socket_path.exists()

    # The same object, which has seen the server alive; the socket and the process id of the dead one are there.
    assert wait_until(lambda: redis_server.state() is State.DOWN, PATIENCE_S)
    redis_server.ensure()

    assert process_of(redis_server) != killed
    with client(redis_server, 1) as connection:
        assert connection.lrange("queue", 0, -1) == ["a", "b"]


def test_it_loads_a_log_whose_end_was_cut_off(redis_server: EmbeddedRedis) -> None:
    with client(redis_server) as connection:
        connection.set("first", "1")
        connection.set("last", "2")
    kill_once_logged(redis_server, b"last")
    log = redis_server.data / "appendonly.aof"
    os.truncate(log, log.stat().st_size - 7)

    redis_server.ensure()

    with client(redis_server) as connection:
        assert connection.get("first") == "1"
        assert connection.get("last") is None
        connection.set("after", "3")
    redis_server.stop()
    redis_server.ensure()
    with client(redis_server) as connection:
        assert connection.get("after") == "3"


def test_it_says_when_the_log_is_damaged_and_leaves_it_alone(redis_server: EmbeddedRedis) -> None:
    with client(redis_server) as connection:
        connection.set("key", "value")
    redis_server.stop()
    log = redis_server.data / "appendonly.aof"
    damaged = b"no redis log" + log.read_bytes()
    log.write_bytes(damaged)

    with pytest.raises(StartError, match="Bad file format reading the append only file"):
        redis_server.ensure()

    assert log.read_bytes() == damaged


def test_it_recovers_from_a_damaged_process_id_file(redis_server: EmbeddedRedis) -> None:
    for text in ("", "no number\n", "-1\n", "\x00" * 20):
        kill(process_of(redis_server))
        (redis_server.data / "redis.pid").write_text(text)

        redis_server.ensure()

        assert redis_server.ping(), repr(text)


def test_it_is_not_fooled_by_a_process_id_of_a_stranger(redis_server: EmbeddedRedis, stranger: Stranger) -> None:
    kill(process_of(redis_server))
    (redis_server.data / "redis.pid").write_text(f"{stranger(redis_server.account)}\n")

    redis_server.ensure()

    assert redis_server.ping()


def test_it_restarts_a_server_whose_socket_was_deleted(redis_server: EmbeddedRedis, place: Path) -> None:
    with client(redis_server) as connection:
        connection.set("key", "value")
    deaf = process_of(redis_server)
    redis_server.socket_path.unlink()

    redis_server.ensure()

    assert [process.pid for process in processes_below(place)] == [process_of(redis_server)]
    assert not is_alive(deaf)
    with client(redis_server) as connection:
        assert connection.get("key") == "value"


def test_it_never_runs_two_servers_on_one_folder_whatever_was_deleted(redis_server: EmbeddedRedis, place: Path) -> None:
    old = process_of(redis_server)
    redis_server.socket_path.unlink()
    (redis_server.data / "redis.pid").unlink()

    redis_server.ensure()

    assert not is_alive(old)
    assert [process.pid for process in processes_below(place)] == [process_of(redis_server)]


def test_it_ends_a_server_whose_data_were_deleted(place: Path) -> None:
    # The socket lies outside, so the old server still answers there, but writes into a deleted file.
    server = EmbeddedRedis(place / ("long" * 40) / "redis", short_base=place)
    server.ensure()
    old = process_of(server)
    shutil.rmtree(server.root)

    assert server.state() is State.DOWN
    server.ensure()

    assert not is_alive(old)
    with client(server) as connection:
        connection.set("key", "value")
    assert (server.data / "appendonly.aof").stat().st_size > 0


def test_it_leaves_a_server_alone_that_is_alive_but_silent(
    redis_server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_module, "PROBE_TIMEOUT_S", 0.1)
    process = psutil.Process(process_of(redis_server))
    process.suspend()

    assert redis_server.state() is State.WAITING
    with pytest.raises(StartTimeoutError, match="alive but does not answer yet"):
        redis_server.ensure(timeout_s=0.1)

    process.resume()
    redis_server.ensure()
    assert process_of(redis_server) == process.pid


def test_it_counts_as_up_when_it_refuses_to_write(redis_server: EmbeddedRedis) -> None:
    with client(redis_server) as connection:
        connection.config_set("maxmemory", 1)

    assert redis_server.ping()


def test_it_knows_sixteen_databases(redis_server: EmbeddedRedis) -> None:
    with client(redis_server, 15) as connection:
        assert connection.ping()
    with pytest.raises(ValueError, match="numbered 0 to 15, not 16"):
        redis_server.url(16)
