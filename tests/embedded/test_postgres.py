"""The embedded PostgreSQL: first start, ways to die, ways to come back."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.embedded.support import command_of, finish, kill, processes_below, python
from tests.patience import PATIENCE_S, eventually
from zenglow_site.embedded import server as server_module
from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.errors import DataDirError, StartError, StartTimeoutError, StopError
from zenglow_site.embedded.folders import exclusive, open_private_file, short_hash, try_lock
from zenglow_site.embedded.postgres import SUPERUSER, EmbeddedPostgres
from zenglow_site.embedded.processes import is_alive, wait_until
from zenglow_site.embedded.server import State

MakePostgres = Callable[..., EmbeddedPostgres]
Stranger = Callable[[Account], int]

ENSURE = """
import sys
from pathlib import Path
from zenglow_site.embedded.postgres import EmbeddedPostgres
place = Path(sys.argv[1])
postgres = EmbeddedPostgres(place / "postgres", elsewhere=place / "elsewhere", short_base=place)
"""


def execute(postgres: EmbeddedPostgres, statement: str, user: str = "zenglow") -> list[tuple[object, ...]]:
    with psycopg.connect(postgres.dsn("zenglow", user), autocommit=True) as connection:
        cursor = connection.execute(statement)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def setting(postgres: EmbeddedPostgres, name: str) -> object:
    return execute(postgres, f"SHOW {name}")[0][0]


def process_of(postgres: EmbeddedPostgres) -> int:
    process_id = postgres.process_id()
    assert process_id is not None
    return process_id


def postmasters_below(place: Path) -> list[int]:
    """Processes with an argument list of their own: the others rename themselves to `postgres: …`."""
    return [process.pid for process in processes_below(place) if "-D" in command_of(process)]


# --- starting --------------------------------------------------------------------------------------------------------


def test_it_makes_a_durable_private_database_with_pgvector_on_first_start(
    place: Path, make_postgres: MakePostgres
) -> None:
    postgres = make_postgres(place / "postgres")
    address_before = postgres.connection_parameters("zenglow")
    assert postgres.state() is State.DOWN

    postgres.ensure()
    postgres.ensure_database("zenglow")
    postgres.ensure_database("zenglow")

    assert postgres.connection_parameters("zenglow") == address_before
    assert postgres.state() is State.UP
    assert execute(postgres, "SELECT '[1,2]'::vector <-> '[4,6]'") == [(5.0,)]
    for name, value in {
        "fsync": "on",
        "synchronous_commit": "on",
        "jit": "off",
        "listen_addresses": "",
        "max_connections": "200",
        "server_encoding": "UTF8",
        "is_superuser": "off",
    }.items():
        assert setting(postgres, name) == value
    assert psutil.Process(process_of(postgres)).net_connections(kind="inet") == []
    for folder in (postgres.data, postgres.socket_dir):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert postgres.status().process_id == process_of(postgres)
    # What a test runner does: a database of its own, whose migrations want the extension.
    execute(postgres, "CREATE DATABASE test_zenglow")
    with psycopg.connect(postgres.url("test_zenglow"), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("CREATE TABLE t (embedding vector(3))")


def test_it_attaches_to_the_running_server(postgres: EmbeddedPostgres, place: Path) -> None:
    first = process_of(postgres)

    other = finish(python(ENSURE + "postgres.ensure(); print(postgres.process_id())", place))

    assert int(other) == first


def test_it_keeps_its_data_over_a_stop_and_a_start(postgres: EmbeddedPostgres) -> None:
    execute(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")

    postgres.stop()
    assert postgres.state() is State.DOWN
    assert postgres.process_id() is None
    postgres.stop()
    postgres.ensure()

    assert execute(postgres, "SELECT answer FROM kept") == [(42,)]


def test_it_starts_one_server_for_eight_simultaneous_first_starts(place: Path) -> None:
    code = ENSURE + (
        "postgres.ensure(); postgres.ensure_database('zenglow')\n"
        "import psycopg\n"
        "with psycopg.connect(postgres.dsn('zenglow')) as connection:\n"
        "    connection.execute('SELECT 1')\n"
        "print(postgres.process_id())"
    )

    children = [python(code, place) for _ in range(8)]

    assert len({finish(child) for child in children}) == 1
    assert len(postmasters_below(place)) == 1


def test_it_stays_up_when_the_process_that_started_it_is_killed(
    place: Path, stopped_postgres: EmbeddedPostgres
) -> None:
    child = python(ENSURE + "import signal; postgres.ensure(); print('up', flush=True); signal.pause()", place)
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    started = process_of(stopped_postgres)

    child.kill()
    child.communicate()

    stopped_postgres.ensure()
    assert process_of(stopped_postgres) == started
    stopped_postgres.stop()
    assert not is_alive(started)


@pytest.mark.parametrize(
    "name",
    ["a folder with spaces", 'l\'été, "quoted" 日本', "back\\slash", "long" * 40],
    ids=["spaces", "signs", "slash", "long"],
)
def test_it_works_in_folders_of_any_name(
    name: str, place: Path, stopped_cluster: Path, make_postgres: MakePostgres
) -> None:
    (place / name).mkdir(mode=0o755)
    (place / name).chmod(0o755)
    subprocess.run(["cp", "-a", stopped_cluster, place / name / "postgres"], check=True)
    postgres = make_postgres(place / name / "postgres")

    postgres.ensure()

    assert execute(postgres, "SELECT 1") == [(1,)]
    with psycopg.connect(postgres.url("zenglow")) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert len(str(postgres.socket_path)) < 100
    assert stat.S_IMODE(postgres.socket_dir.stat().st_mode) == 0o700
    assert postgres.socket_dir.stat().st_uid == postgres.account.uid


def test_it_makes_its_database_in_a_long_folder_with_spaces(place: Path, make_postgres: MakePostgres) -> None:
    postgres = make_postgres(place / ("many words " * 12) / "postgres")

    postgres.ensure()
    postgres.ensure_database("zenglow")

    assert execute(postgres, "SELECT 1") == [(1,)]
    assert postgres.socket_dir == place / f"zg-{short_hash(postgres.home)}"


@pytest.mark.parametrize("kind", ["link", "file"])
def test_it_refuses_a_socket_folder_that_somebody_else_prepared(
    kind: str, place: Path, make_postgres: MakePostgres
) -> None:
    postgres = make_postgres(place / ("long" * 40) / "postgres")
    if kind == "link":
        (place / "trap").mkdir()
        postgres.socket_dir.symlink_to(place / "trap")
    else:
        postgres.socket_dir.write_text("")

    with pytest.raises(DataDirError, match=r"must be a folder of the account .* Remove it"):
        postgres.ensure()

    assert not processes_below(place)


def test_it_needs_neither_home_nor_a_tidy_environment(place: Path, stopped_postgres: EmbeddedPostgres) -> None:
    hostile = {
        "PGHOST": "/nowhere",
        "PGPORT": "1",
        "PGDATA": "/nowhere",
        "PGUSER": "nobody",
        "PGSSLMODE": "require",
        "LC_ALL": "tlh_KL.KOI8-R",
        "TZ": "Mars/Olympus",
    }

    code = ENSURE + "import os; assert 'HOME' not in os.environ; postgres.ensure(); postgres.ensure_database('zenglow')"
    finish(python(code, place, environment=hostile))

    assert setting(stopped_postgres, "timezone") == "UTC"


# --- dying and coming back -------------------------------------------------------------------------------------------


def test_it_recovers_when_the_server_is_killed(postgres: EmbeddedPostgres) -> None:
    execute(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    killed = process_of(postgres)
    kill(killed)

    # The same object, which has seen the server alive.
    assert postgres.state() is State.DOWN
    postgres.ensure()

    assert process_of(postgres) != killed
    assert execute(postgres, "SELECT answer FROM kept") == [(42,)]


def test_it_does_not_wait_for_the_query_of_a_killed_server(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.dsn("zenglow"), autocommit=True) as connection:
        backend = connection.info.backend_pid
        query = threading.Thread(target=_query_for_hours, args=[connection])
        query.start()
        assert wait_until(
            lambda: execute(postgres, f"SELECT state FROM pg_stat_activity WHERE pid = {backend}") == [("active",)],
            PATIENCE_S,
        )
        kill(process_of(postgres))
        assert is_alive(backend)

        postgres.ensure()

        assert not is_alive(backend)
        query.join(PATIENCE_S)
    assert execute(postgres, "SELECT 1") == [(1,)]


def _query_for_hours(connection: psycopg.Connection) -> None:
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT count(*) FROM generate_series(1, 1000000) a, generate_series(1, 1000000) b")


def test_it_recovers_when_a_killed_server_stays_a_zombie(place: Path, stopped_postgres: EmbeddedPostgres) -> None:
    # The child adopts orphans and never reaps them, as process 1 of many containers.
    code = ENSURE + (
        "import ctypes, os, psutil\n"
        "from zenglow_site.embedded.processes import wait_until\n"
        "PR_SET_CHILD_SUBREAPER = 36\n"
        "assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0\n"
        "postgres.ensure()\n"
        "killed = postgres.process_id()\n"
        "os.kill(killed, 9)\n"
        "assert wait_until(lambda: psutil.Process(killed).status() == psutil.STATUS_ZOMBIE, 600)\n"
        "postgres.ensure()\n"
        "assert psutil.Process(killed).status() == psutil.STATUS_ZOMBIE\n"
        "print(killed, postgres.process_id())"
    )

    killed, started = finish(python(code, place)).split()

    assert killed != started
    assert process_of(stopped_postgres) == int(started)


def test_it_is_not_fooled_by_lock_files_that_name_a_strangers_process(
    postgres: EmbeddedPostgres, stranger: Stranger
) -> None:
    kill(process_of(postgres))
    process_id = stranger(postgres.account)
    for file in (postgres.data / "postmaster.pid", postgres.socket_dir / ".s.PGSQL.5432.lock"):
        _, _, rest = file.read_text().partition("\n")
        file.write_text(f"{process_id}\n{rest}")

    assert postgres.process_id() is None
    postgres.ensure()

    assert execute(postgres, "SELECT 1") == [(1,)]


def test_it_recovers_from_a_damaged_lock_file(postgres: EmbeddedPostgres) -> None:
    for text in ("", "\n", "17\n", "no number\n", "-1\n/data\n", "\x00" * 40):
        kill(process_of(postgres))
        (postgres.data / "postmaster.pid").write_text(text)

        postgres.ensure()

        assert execute(postgres, "SELECT 1") == [(1,)], repr(text)


def test_it_recovers_from_damaged_files_of_its_own(stopped_postgres: EmbeddedPostgres) -> None:
    for name in (".lock", "server.lock", "zenglow.conf", "postgres.log"):
        (stopped_postgres.root / name).write_bytes(b"\x00\xff{")
    (stopped_postgres.root / ".zenglow.conf.0badcafe").write_text("a draft whose writer was killed")

    stopped_postgres.ensure()

    assert execute(stopped_postgres, "SELECT 1") == [(1,)]


def test_it_begins_again_when_the_first_start_was_killed_halfway(place: Path, make_postgres: MakePostgres) -> None:
    postgres = make_postgres(place / "postgres")
    child = python(ENSURE + "postgres.ensure()", place)
    assert wait_until((postgres.root / "data.new" / "PG_VERSION").exists, PATIENCE_S)
    for process in (psutil.Process(child.pid), *psutil.Process(child.pid).children()):
        process.kill()
    child.communicate()
    assert not postgres.data.exists()

    postgres.ensure()
    postgres.ensure_database("zenglow")

    assert execute(postgres, "SELECT '[1]'::vector IS NOT NULL") == [(True,)]
    assert not (postgres.root / "data.new").exists()


def test_it_waits_for_a_long_recovery_and_leaves_it_alone(place: Path, stopped_postgres: EmbeddedPostgres) -> None:
    # Recovery asks for archived log until the file `go` is there, so it lasts exactly as long as the test wants.
    (stopped_postgres.data / "recovery.signal").touch()
    with (stopped_postgres.data / "postgresql.auto.conf").open("a") as file:
        file.write(f"restore_command = 'while [ ! -e {place}/go ]; do sleep 0.02; done; false'\n")

    with pytest.raises(StartTimeoutError, match="alive but does not answer yet"):
        stopped_postgres.ensure(timeout_s=2.0)
    # On a busy machine the server may not even listen yet, nor have said which process it is.
    assert wait_until(lambda: stopped_postgres.state() is State.WAITING, 60)
    recovering = process_of(stopped_postgres)
    with pytest.raises(StartTimeoutError, match="alive but does not answer yet"):
        stopped_postgres.ensure(timeout_s=0.1)
    waiting = python(ENSURE + "print('waiting', flush=True); postgres.ensure(); print(postgres.process_id())", place)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "waiting\n"
    (place / "go").touch()

    assert int(finish(waiting)) == recovering
    # A recovery from archived log, unlike one after a crash, lets readers in before it has ended.
    eventually(lambda: execute(stopped_postgres, "SELECT pg_is_in_recovery()") == [(False,)])


def test_it_restarts_a_server_whose_socket_was_deleted(postgres: EmbeddedPostgres, place: Path) -> None:
    execute(postgres, "CREATE TABLE kept AS SELECT 42 AS answer")
    deaf = process_of(postgres)
    shutil.rmtree(postgres.socket_dir)

    postgres.ensure()

    assert not is_alive(deaf)
    assert postmasters_below(place) == [process_of(postgres)]
    assert execute(postgres, "SELECT answer FROM kept") == [(42,)]


def test_it_ends_a_server_whose_data_were_deleted(place: Path, make_postgres: MakePostgres) -> None:
    # The socket lies outside, so the old server still answers there.
    postgres = make_postgres(place / ("long" * 40) / "postgres")
    postgres.ensure()
    old = process_of(postgres)
    shutil.rmtree(postgres.root)

    assert postgres.state() is State.DOWN
    postgres.ensure()

    assert not is_alive(old)
    assert postmasters_below(place) == [process_of(postgres)]


def test_it_refuses_to_start_beside_a_server_that_it_cannot_see(
    stopped_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "KILL_TIMEOUT_S", 0.1)
    # What a server in another container holds; its processes have no ids here.
    guard = open_private_file(stopped_postgres.home / "server.lock", stopped_postgres.owner, os.O_RDWR)
    assert try_lock(guard)

    with pytest.raises(StartError, match="probably in another container"):
        stopped_postgres.ensure()

    os.close(guard)
    stopped_postgres.ensure()
    assert execute(stopped_postgres, "SELECT 1") == [(1,)]


def test_it_says_when_another_process_is_at_it_for_too_long(stopped_postgres: EmbeddedPostgres) -> None:
    with exclusive(stopped_postgres.root / ".lock", stopped_postgres.owner, timeout_s=0):
        with pytest.raises(StartTimeoutError, match="Another process has been starting or stopping PostgreSQL"):
            stopped_postgres.ensure(timeout_s=0.05)
        with pytest.raises(StopError, match="Another process has been starting or stopping PostgreSQL"):
            stopped_postgres.stop(timeout_s=0.05)

    stopped_postgres.ensure()


def test_it_counts_as_up_when_all_connections_are_taken(stopped_postgres: EmbeddedPostgres) -> None:
    with (stopped_postgres.data / "postgresql.auto.conf").open("a") as file:
        file.write("max_connections = 5\nsuperuser_reserved_connections = 1\nmax_wal_senders = 0\n")
    stopped_postgres.ensure()
    before = process_of(stopped_postgres)

    connections = [psycopg.connect(stopped_postgres.dsn("zenglow", SUPERUSER)) for _ in range(5)]

    assert stopped_postgres.state() is State.UP
    stopped_postgres.ensure()
    assert process_of(stopped_postgres) == before
    with pytest.raises(StartError, match="too many clients"):
        stopped_postgres.ensure_database("zenglow")
    for connection in connections:
        connection.close()


# --- settings --------------------------------------------------------------------------------------------------------


def test_it_cannot_be_moved_by_settings_but_takes_the_others(postgres: EmbeddedPostgres) -> None:
    for assignment in (
        "port = 1",
        "listen_addresses = '*'",
        "unix_socket_directories = '/nowhere'",
        "work_mem = '7MB'",
    ):
        execute(postgres, f"ALTER SYSTEM SET {assignment}", SUPERUSER)
    with (postgres.data / "postgresql.conf").open("a") as file:
        file.write("port = 2\n")

    postgres.stop()
    postgres.ensure()

    assert setting(postgres, "port") == "5432"
    assert setting(postgres, "listen_addresses") == ""
    assert setting(postgres, "work_mem") == "7MB"


def test_it_can_have_a_port_of_its_own(
    place: Path, stopped_postgres: EmbeddedPostgres, make_postgres: MakePostgres
) -> None:
    postgres = make_postgres(stopped_postgres.root, port=6000)

    postgres.ensure()

    assert postgres.socket_path.name == ".s.PGSQL.6000"
    assert setting(postgres, "port") == "6000"
    # Another port is another socket of the same data, so that server gives way.
    stopped_postgres.ensure()
    assert setting(stopped_postgres, "port") == "5432"
    assert len(postmasters_below(place)) == 1


def test_it_says_what_is_wrong_with_a_setting(stopped_postgres: EmbeddedPostgres) -> None:
    configuration = stopped_postgres.data / "postgresql.auto.conf"
    good = configuration.read_text()
    configuration.write_text(good + "shared_buffers = 'plenty'\n")

    with pytest.raises(StartError, match=r'invalid value for parameter "shared_buffers": "plenty"'):
        stopped_postgres.ensure()

    configuration.write_text(good)
    stopped_postgres.ensure()


def test_it_never_deletes_a_data_folder_that_it_does_not_know(stopped_postgres: EmbeddedPostgres) -> None:
    (stopped_postgres.data / "PG_VERSION").unlink()

    with pytest.raises(DataDirError, match="no PG_VERSION"):
        stopped_postgres.ensure()

    assert (stopped_postgres.data / "base").is_dir()


def test_it_says_when_the_data_are_of_another_version(stopped_postgres: EmbeddedPostgres) -> None:
    (stopped_postgres.data / "PG_VERSION").write_text("17\n")

    with pytest.raises(DataDirError, match=r"made by PostgreSQL 17, and this is PostgreSQL 18\. Make a backup"):
        stopped_postgres.ensure()


def test_it_says_when_the_folder_is_a_file(place: Path, make_postgres: MakePostgres) -> None:
    (place / "file").write_text("")

    with pytest.raises(DataDirError, match=r"file.*Free or repair that place"):
        make_postgres(place / "file" / "postgres").ensure()


def test_it_bounds_its_log_while_the_server_runs(postgres: EmbeddedPostgres) -> None:
    written = postgres.log_file.stat().st_size

    postgres.rotate_log(max_bytes=written)
    assert postgres.log_file.stat().st_size == written
    postgres.rotate_log(max_bytes=written - 1)

    assert postgres.log_file.stat().st_size == 0
    assert postgres.log_file.with_name("postgres.log.1").stat().st_size == written
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(postgres.dsn("missing"))
    assert postgres.log_file.read_text().count('database "missing" does not exist') == 1
    assert stat.S_IMODE(postgres.log_file.stat().st_mode) == 0o600


def test_it_keeps_what_people_write_out_of_its_log(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.errors.SyntaxError):
        execute(postgres, "SELEKT 'a private question'")

    assert "private question" not in postgres.log_file.read_text()


def test_it_kills_a_server_that_does_not_stop(postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "ESCALATION_TIMEOUT_S", 0.1)
    process_id = process_of(postgres)
    psutil.Process(process_id).send_signal(signal.SIGSTOP)

    postgres.stop(timeout_s=0.1)

    assert not is_alive(process_id)
    postgres.ensure()
    assert execute(postgres, "SELECT 1") == [(1,)]
