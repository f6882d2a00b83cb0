"""Each test has servers of its own, on a folder of its own, and leaves nothing behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.embedded.support import temporary_place
from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.postgres import EmbeddedPostgres
from zenglow_site.embedded.redis import EmbeddedRedis


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder of this test alone. Servers below it are ended, and it is removed."""
    with temporary_place() as folder:
        yield folder


@pytest.fixture
def make_postgres(place: Path) -> Callable[..., EmbeddedPostgres]:
    """Makes the launcher of a folder; what it puts elsewhere lands in the test's own place too."""
    return partial(EmbeddedPostgres, elsewhere=place / "elsewhere", short_base=place)


@pytest.fixture(scope="session")
def stopped_cluster() -> Iterator[Path]:
    """The root folder of a stopped PostgreSQL with its database, made once."""
    with temporary_place() as folder:
        postgres = EmbeddedPostgres(folder / "postgres", elsewhere=folder, short_base=folder)
        postgres.ensure()
        postgres.ensure_database("zenglow")
        postgres.stop()
        yield postgres.root


@pytest.fixture
def stopped_postgres(
    place: Path, stopped_cluster: Path, make_postgres: Callable[..., EmbeddedPostgres]
) -> EmbeddedPostgres:
    """A PostgreSQL of this test that has run before and is down now."""
    subprocess.run(["cp", "-a", stopped_cluster, place / "postgres"], check=True)
    return make_postgres(place / "postgres")


@pytest.fixture
def postgres(stopped_postgres: EmbeddedPostgres) -> EmbeddedPostgres:
    """A running PostgreSQL of this test."""
    stopped_postgres.ensure()
    return stopped_postgres


@pytest.fixture
def redis_server(place: Path) -> EmbeddedRedis:
    """A running Redis of this test."""
    server = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
    server.ensure()
    return server


@pytest.fixture
def stranger() -> Iterator[Callable[[Account], int]]:
    """Starts live processes that have nothing to do with us; their ids."""
    children: list[subprocess.Popen[bytes]] = []

    def start(account: Account) -> int:
        children.append(subprocess.Popen(["sleep", "1000"], cwd="/", **account.popen_arguments()))
        return children[-1].pid

    yield start
    for child in children:
        assert child.poll() is None, "a process that was none of our business was ended"
        child.kill()
        child.wait()
