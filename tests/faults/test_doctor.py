"""An installation is broken each way, for real, and `manage.py doctor` names it: figure, next command, exit code."""

from __future__ import annotations

import json
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.patience import PATIENCE_S
from tests.serving import Zenglow, installations
from zenglow_site.embedded.processes import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]

NOBODY = 1
"""A port on which nobody listens."""


@pytest.fixture(scope="module")
def zenglow(request: pytest.FixtureRequest) -> Iterator[Zenglow]:
    """Stores with all that a server needs, and no server. Each test leaves them whole."""
    with installations(request) as make:
        installation = make(OPS_BACKUP_MAX_AGE_DAYS="1")
        installation.stack.ensure()
        yield installation
        installation.stack.stop()


def troubles(zenglow: Zenglow) -> dict[str, tuple[str, str]]:
    """What doctor calls trouble: of each part, what was found and which command is next."""
    done = zenglow.run("doctor", "--json")
    assert done.stdout.startswith("["), done
    found = json.loads(done.stdout)
    bad = {one["about"]: (one["what"], one["next"]) for one in found if one["level"] == "trouble"}
    assert done.returncode == (1 if bad else 0), done
    assert "Traceback" not in done.stderr
    if bad:
        assert f"CommandError: {len(bad)} of {len(found)} findings are trouble" in done.stderr
    return bad


@contextmanager
def changed(zenglow: Zenglow, statement: str, back: str) -> Iterator[None]:
    with psycopg.connect(zenglow.stack.postgres.dsn("zenglow"), autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]
        try:
            yield
        finally:
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(back)  # type: ignore[arg-type]


NO_WORKER = {"workers": ("No worker answers, so that indexing waits. Start one, or see its log.", "manage.py serve")}


def test_nothing_but_the_workers_that_are_gone(zenglow: Zenglow) -> None:
    assert troubles(zenglow) == NO_WORKER


def test_a_migration_that_is_missing(zenglow: Zenglow) -> None:
    row = "app = 'ops' AND name = '0001_initial'"
    with changed(
        zenglow,
        f"DELETE FROM django_migrations WHERE {row}",
        "INSERT INTO django_migrations (app, name, applied) VALUES ('ops', '0001_initial', now())",
    ):
        found = troubles(zenglow)
    assert found["migrations"] == ("1 not applied, first ops.0001_initial. Run manage.py migrate.", "manage.py migrate")


def test_a_database_that_takes_no_more_writes(zenglow: Zenglow) -> None:
    """What managed databases do when their disk is full, and what a standby is."""
    name = "ALTER DATABASE zenglow SET default_transaction_read_only"
    with changed(zenglow, f"{name} = on", f"{name} = off"):
        what, command = troubles(zenglow)["postgresql"]
    assert what.startswith("PostgreSQL takes no writes: it is read-only, with 0.")
    assert command == "manage.py perf status"


@pytest.mark.parametrize("slot", ["embedder", "ltr"])
def test_a_model_that_can_not_be_loaded(slot: str, zenglow: Zenglow) -> None:
    damaged = [path for path in model_files(zenglow, slot) if path.stat().st_size]
    kept = {path: path.read_bytes() for path in damaged}
    for path in damaged:
        path.chmod(0o600)
        path.write_bytes(kept[path][: len(kept[path]) // 2])
    try:
        what, command = troubles(zenglow)["models"]
    finally:
        for path, whole in kept.items():
            path.write_bytes(whole)
    assert "can't be" in what
    assert command == f"manage.py registry rollback {slot}"


def model_files(zenglow: Zenglow, slot: str) -> list[Path]:
    """Of what is live in a slot."""
    with psycopg.connect(zenglow.stack.postgres.dsn("zenglow")) as connection:
        hashes = connection.execute(
            """SELECT file.value FROM models_registry_deployment live
               JOIN models_registry_modelversion version ON version.id = live.model_version_id,
               jsonb_each_text(version.artifacts) file
               WHERE live.slot = %s AND live.ended_at IS NULL""",
            [slot],
        ).fetchall()
    names = {sha256 for (sha256,) in hashes}
    return [path for path in zenglow.data_dir.rglob("*") if path.is_file() and path.name in names]


def test_redis_that_is_down(zenglow: Zenglow) -> None:
    kill(zenglow.stack.redis.process_id())
    try:
        found = troubles(zenglow)
    finally:
        zenglow.stack.ensure()
    assert found["redis"] == ("Redis does not answer: ConnectionError.", "manage.py stack start")
    assert found["workers"][0].startswith("The broker can't be reached")
    assert "postgresql" not in found


def test_postgresql_that_is_away(zenglow: Zenglow) -> None:
    """It looks and does not mend: the next command does. What only PostgreSQL knows is not asked for."""
    zenglow.stack.postgres.stop()
    try:
        found = troubles(zenglow)
        assert zenglow.stack.postgres.process_id() is None
    finally:
        zenglow.stack.ensure()
    what, command = found["postgresql"]
    assert what.startswith("PostgreSQL can't be reached (OperationalError).")
    assert command == "manage.py stack start"
    assert found.keys() == {"postgresql", "workers"}


def test_stores_of_ones_own_that_are_away(zenglow: Zenglow) -> None:
    elsewhere = {
        "ZENGLOW_SECRET_KEY": secrets.token_hex(32),
        "DATABASE_URL": f"postgres://nobody@127.0.0.1:{NOBODY}/none",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(NOBODY),
    }
    zenglow.variables.update(elsewhere)
    try:
        found = troubles(zenglow)
    finally:
        for name in elsewhere:
            del zenglow.variables[name]
    assert {name: command for name, (_, command) in found.items()} == {
        "postgresql": "manage.py config show",
        "redis": "manage.py config show",
        "workers": "manage.py serve",
    }


def test_backups_that_are_missing_or_old(tmp_path: Path, zenglow: Zenglow) -> None:
    applied = "UPDATE django_migrations SET applied = applied"
    with changed(zenglow, f"{applied} - interval '3 days'", f"{applied} + interval '3 days'"):
        what, command = troubles(zenglow)["backups"]
        assert what == "No backup was ever made, in 3 days."
        target = tmp_path / "made.backup"
        done = zenglow.run(*command.removeprefix("manage.py ").replace("zenglow.backup", str(target)).split())
        assert done.returncode == 0, done
        assert "backups" not in troubles(zenglow)
        with changed(
            zenglow,
            "UPDATE ops_auditevent SET occurred_at = occurred_at - interval '3 days' WHERE action = 'backup.create'",
            "DELETE FROM ops_auditevent WHERE action = 'backup.create'",
        ):
            assert troubles(zenglow)["backups"][0] == (
                "The last backup, made.backup, is 3 days old; at most 1 are meant to pass."
            )


def kill(process_id: int | None) -> None:
    assert process_id is not None
    process = psutil.Process(process_id)
    process.send_signal(signal.SIGKILL)
    assert wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, PATIENCE_S)
