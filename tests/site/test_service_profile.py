"""The service profile, whole: a PostgreSQL and a Redis that ask for passwords over TCP, and everything on top."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.embedded.support import temporary_place
from tests.patience import PATIENCE_S
from tests.serving import Zenglow, free_port
from zenglow_site.embedded.accounts import Account, current_account, unprivileged_account
from zenglow_site.embedded.folders import make_private_folder
from zenglow_site.embedded.installs import postgres_install_for, redis_server_for
from zenglow_site.embedded.processes import wait_until
from zenglow_site.environment import BASE_DIR

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

PASSWORD = "p@ss/w:rd?&#"

REGISTER = """
import sys
from pathlib import Path
import django
django.setup()
from rag.embedders import register_embedder
from rag.seeding import PACKAGED_EMBEDDER
register_embedder(PACKAGED_EMBEDDER, Path(sys.argv[1]), "tests")
"""


@dataclass(frozen=True, slots=True)
class Services:
    """Two servers as an operator would provide them."""

    postgres_port: int
    redis_port: int
    socket_folder: Path

    def add_extension(self) -> None:
        """What only a superuser may do where the extension is not marked as trusted."""
        superuser = make_conninfo(
            host="127.0.0.1", port=self.postgres_port, user="postgres", password=PASSWORD, dbname="zenglow"
        )
        with psycopg.connect(superuser) as connection:
            connection.execute("CREATE EXTENSION vector")

    @property
    def variables(self) -> dict[str, str]:
        return {
            "DATABASE_URL": f"postgres://zenglow:{quote(PASSWORD, safe='')}@127.0.0.1:{self.postgres_port}/zenglow",
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.redis_port),
            "REDIS_PASSWORD": PASSWORD,
            "ZENGLOW_SECRET_KEY": "0123456789" * 5,
        }

    @property
    def url_of_the_socket(self) -> str:
        return (
            f"postgres://zenglow:{quote(PASSWORD, safe='')}@{quote(str(self.socket_folder), safe='')}"
            f":{self.postgres_port}/zenglow"
        )


@pytest.fixture
def services() -> Iterator[Services]:
    account = current_account()
    if account.uid == 0:
        account = unprivileged_account(account)
    with temporary_place() as place:
        for name in ("postgres", "run", "redis"):
            make_private_folder(place / name, account)
        with running_postgres(place, account) as postgres_port, running_redis(place, account) as redis_port:
            yield Services(postgres_port, redis_port, place / "run")


@contextmanager
def running_postgres(place: Path, account: Account) -> Iterator[int]:
    """A cluster with a role and a database called zenglow; everybody needs a password."""
    programs = postgres_install_for(account, place / "programs") / "bin"
    port, password_file = free_port(), place / "password"
    password_file.write_text(PASSWORD)
    arguments = account.popen_arguments() | {"cwd": "/", "env": {"LC_ALL": "C.UTF-8"}}
    subprocess.run(
        [
            *[str(programs / "initdb"), "-D", str(place / "postgres"), "-U", "postgres", "--auth=scram-sha-256"],
            *[f"--pwfile={password_file}", "--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"],
        ],
        check=True,
        stdout=subprocess.DEVNULL,
        **arguments,
    )
    with (place / "postgres.log").open("w") as log:
        server = subprocess.Popen(
            [
                *[str(programs / "postgres"), "-D", str(place / "postgres"), "-p", str(port), "-k", str(place / "run")],
                *["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
            ],
            stdout=log,
            stderr=log,
            **arguments,
        )
    try:
        superuser = make_conninfo(host="127.0.0.1", port=port, user="postgres", password=PASSWORD)

        def is_up() -> bool:
            assert server.poll() is None, (place / "postgres.log").read_text()
            try:
                psycopg.connect(superuser).close()
            except psycopg.OperationalError:
                return False
            return True

        assert wait_until(is_up, PATIENCE_S)
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE zenglow LOGIN PASSWORD {}").format(sql.Literal(PASSWORD)))
            connection.execute("CREATE DATABASE zenglow OWNER zenglow")
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


@contextmanager
def running_redis(place: Path, account: Account) -> Iterator[int]:
    port = free_port()
    server = subprocess.Popen(
        [
            *[str(redis_server_for(account, place / "programs")), "--bind", "127.0.0.1", "--port", str(port)],
            *["--requirepass", PASSWORD, "--dir", str(place / "redis"), "--save", ""],
        ],
        stdout=subprocess.DEVNULL,
        cwd="/",
        **account.popen_arguments(),
    )
    try:

        def is_up() -> bool:
            assert server.poll() is None
            try:
                with redis.Redis(port=port, password=PASSWORD) as client:
                    return bool(client.ping())
            except redis.ConnectionError:
                return False

        assert wait_until(is_up, PATIENCE_S)
        yield port
    finally:
        server.terminate()
        server.wait(PATIENCE_S)


def test_it_runs_on_servers_of_somebody_else(
    services: Services, make_zenglow: Callable[..., Zenglow], exported_embedder: Path
) -> None:
    zenglow = make_zenglow(is_new=True, **services.variables)
    refused = zenglow.run("migrate", "--verbosity", "0")
    assert (refused.returncode, refused.stderr) == (
        2,
        'permission denied to create extension "vector". '
        "As a superuser of PostgreSQL, run in this database: CREATE EXTENSION vector;\n",
    )
    services.add_extension()
    migrated = zenglow.run("migrate", "--verbosity", "0")
    assert migrated.returncode == 0, migrated.stderr
    # The exact embedder that a first start would make, without the half minute that making it takes.
    subprocess.run(
        [sys.executable, "-c", REGISTER, str(exported_embedder)],
        cwd=BASE_DIR,
        env=zenglow.environment | {"DJANGO_SETTINGS_MODULE": "zenglow_site.settings"},
        check=True,
    )
    made = zenglow.run("collections", "create", "papers")
    assert made.returncode == 0, made.stderr

    zenglow.start()
    assert "Starting PostgreSQL and Redis …" not in zenglow.lines
    assert not (zenglow.data_dir / "postgres").exists()
    assert not (zenglow.data_dir / "redis").exists()
    assert zenglow.query("anything").status == 401, "a service needs keys"
    made = zenglow.run("apikey", "create", "test", "--scope", "query", "--scope", "ingest", "--quiet")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    run = zenglow.index({"owls": "Owls hunt at night without a sound."}, X_API_Key=key)
    assert zenglow.finished(run, X_API_Key=key)["added"] == 1
    found = zenglow.query("silent hunters", X_API_Key=key)
    assert (found.status, found.body["degraded"]) == (200, [])
    assert found.body["results"][0]["document_id"] == "owls"
    assert zenglow.query("silent hunters", X_API_Key=key).body["cache"] == "full", "Redis is there, too"
    zenglow.eventually(lambda: zenglow.call("/health/ready"), lambda ready: ready.body["status"] == "ok")

    assert zenglow.end() == 0
    assert zenglow.family() == []

    # The same database by its socket.
    zenglow.variables["DATABASE_URL"] = services.url_of_the_socket
    by_socket = zenglow.run("check", "--database", "default", "--fail-level", "WARNING")
    assert by_socket.returncode == 0, by_socket.stderr
    searched = zenglow.run("search", "silent hunters", "--collection", "papers")
    assert "owls" in searched.stdout, searched.stderr


def test_it_says_in_one_line_that_a_server_does_not_answer(make_zenglow: Callable[..., Zenglow]) -> None:
    services = Services(free_port(), free_port(), Path("/nowhere"))
    zenglow = make_zenglow(is_new=True, DATABASE_CONNECT_TIMEOUT_S="1", **services.variables)
    refused = zenglow.run("serve")
    assert refused.returncode == 2
    assert "The database can't be used: couldn't get a connection after 1.00 sec" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert PASSWORD not in refused.stderr
    assert zenglow.family() == []
