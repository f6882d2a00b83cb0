"""The embedded PostgreSQL: the wheel's programs, driven by ourselves.

Layout of the root folder: `data/` (the database cluster), `run/` (the socket), `zenglow.conf` (rewritten at each
start), `postgres.log`. There is no password and no TCP port: whoever can enter the socket's folder, which is its
account's and root's alone, is let in.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from zenglow_site.embedded import folders, machine, processes
from zenglow_site.embedded.accounts import Account, current_account, owner_of, unprivileged_account
from zenglow_site.embedded.errors import DataDirError, StartError, StartTimeoutError
from zenglow_site.embedded.installs import ELSEWHERE, POSTGRES_MAJOR, postgres_install, postgres_install_for
from zenglow_site.embedded.machine import MIB, clamp
from zenglow_site.embedded.server import PROBE_TIMEOUT_S, SHORT_BASE, EmbeddedServer, State

logger = logging.getLogger(__name__)

SUPERUSER = "postgres"
# What the application connects as: owns its databases, may make test databases, is no superuser. So a mistake in
# SQL can't run programs (COPY ... PROGRAM), and what needs a superuser fails here as it would on a managed server.
APPLICATION_USER = "zenglow"
DEFAULT_PORT = 5432
POINTER_NAME = "DATA-IS-ELSEWHERE.txt"
BACK_POINTER_NAME = "belongs-to.txt"
PID_FILE_STATUS_LINE = 7  # LOCK_FILE_LINE_PM_STATUS of PostgreSQL's miscadmin.h, counted from 0

# Run once in a cluster that nobody can reach yet, before it is given its final name. pgvector is not a trusted
# extension; in template1 every later database has it, test databases too.
BOOTSTRAP_SQL = f"""\
CREATE EXTENSION vector;
CREATE ROLE {APPLICATION_USER} LOGIN CREATEDB IN ROLE pg_monitor;
"""

OUTDATED_EXTENSION_SQL = (
    "SELECT FROM pg_available_extensions WHERE name = 'vector' AND installed_version <> default_version"
)

FIXED_SETTINGS: Mapping[str, str] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # Vectors don't compress: after a checkpoint, trying it took over half of the time of writing one and saved nothing.
    "wal_compression": "off",
    # The first change of a page after a checkpoint writes all of it to the log: an import should not meet many.
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    # Four web processes and two workers with as many as their pools hold (DATABASE_POOL_MAX_SIZE), and commands.
    "max_connections": "200",
    "jit": "off",  # the wheel is built without LLVM
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # A failed statement's text can hold people's queries and documents; the application reports its own errors.
    "log_min_error_statement": "panic",
}


def memory_settings(memory_bytes: int, free_shared_memory_bytes: int | None, processors: int) -> dict[str, str]:
    """Settings by the machine's size.

    Beside PostgreSQL live the web servers, workers and their models, so it takes an eighth of the memory for its pages,
    up to 4 GB; it touches no more of it than it has pages to keep (some 3 GB for 300,000 chunks). A parallel index
    build puts the whole of maintenance_work_mem into /dev/shm and fails when that is smaller (64 MB in a container by
    default), so there it must not be parallel. `free_shared_memory_bytes` None: no limit.
    """
    maintenance_mib = clamp(memory_bytes // 16 // MIB, 64, 512)
    room_mib = None if free_shared_memory_bytes is None else free_shared_memory_bytes // MIB
    helpers = clamp(processors - 1, 0, 4)
    return {
        "shared_buffers": f"{clamp(memory_bytes // 8 // MIB, 64, 4096)}MB",
        "effective_cache_size": f"{max(memory_bytes // 2 // MIB, 128)}MB",
        "maintenance_work_mem": f"{maintenance_mib}MB",
        "work_mem": f"{clamp(memory_bytes // 1024 // MIB, 4, 16)}MB",
        "max_parallel_maintenance_workers": str(helpers if room_mib is None or room_mib >= maintenance_mib + 64 else 0),
        # A parallel hash join needs up to work_mem x hash_mem_multiplier x participants there.
        "max_parallel_workers_per_gather": str(min(helpers, 2) if room_mib is None or room_mib >= 256 else 0),
    }


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL with pgvector on one folder."""

    name = "PostgreSQL"
    program = "postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)  # fast shutdown, immediate shutdown, kill

    def __init__(
        self,
        root: Path,
        port: int = DEFAULT_PORT,
        *,
        elsewhere: Path = ELSEWHERE,
        short_base: Path = SHORT_BASE,
    ) -> None:
        """`port` only names the socket: nothing listens on the network."""
        super().__init__(root, elsewhere=elsewhere, short_base=short_base)
        self.port = port

    # --- connecting ----------------------------------------------------------------------------------------------

    def connection_parameters(self, database: str, user: str = APPLICATION_USER) -> dict[str, Any]:
        """Keyword arguments of `psycopg.connect`."""
        return {"host": str(self.socket_dir), "port": self.port, "user": user, "dbname": database}

    def dsn(self, database: str, user: str = APPLICATION_USER) -> str:
        """A connection string for psycopg and libpq's programs (`psql`, `pg_dump`)."""
        return make_conninfo(**self.connection_parameters(database, user))

    def url(self, database: str, user: str = APPLICATION_USER) -> str:
        """The same as a URL."""
        return f"postgresql://{user}@{quote(str(self.socket_dir), safe='')}:{self.port}/{quote(database, safe='')}"

    def tool(self, name: str) -> Path:
        """A client program of this PostgreSQL, such as `pg_dump`. Raises BinaryNotFoundError."""
        return postgres_install() / "bin" / name

    def ensure_database(self, database: str) -> None:
        """Make the database unless it exists, and bring its pgvector up to the installed version.

        Raises StartError when the server, which must be up, refuses.
        """
        try:
            exists = self._execute(SUPERUSER, "SELECT FROM pg_database WHERE datname = %s", database)
            if not exists:
                create = sql.SQL("CREATE DATABASE {} OWNER {}").format(
                    sql.Identifier(database), sql.Identifier(APPLICATION_USER)
                )
                # Suppressed: another process was first.
                with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                    self._execute(SUPERUSER, create)
            elif self._execute(database, OUTDATED_EXTENSION_SQL):
                self._execute(database, sql.SQL("ALTER EXTENSION vector UPDATE"))
        except psycopg.Error as error:
            raise StartError(
                f"{self.name} is up but refused the database {database}: {error}. Its log is {self.log_file}."
            ) from error

    def _execute(self, database: str, statement: LiteralString | sql.SQL | sql.Composed, *parameters: str) -> int:
        """Run a statement as the superuser; its row count."""
        with psycopg.connect(**self.connection_parameters(database, SUPERUSER), autocommit=True) as connection:
            return connection.execute(statement, parameters or None).rowcount

    # --- where and who -------------------------------------------------------------------------------------------

    @cached_property
    def home(self) -> Path:
        """The root folder; as root, a folder in `elsewhere` when the server's account can't enter the root folder.

        A pointer file in the root folder names that other place. Raises DataDirError when it makes no sense.
        """
        pointer = self.root / POINTER_NAME
        with self._explained_errors():
            if pointer.is_file():
                return self._read_pointer(pointer)
            if os.geteuid() != 0 or (self.root / "data").exists():
                return self.root
            if unprivileged_account(self.owner).can_enter(folders.nearest_existing(self.root)):
                return self.root
        return self.elsewhere / folders.short_hash(self.root)

    def _read_pointer(self, pointer: Path) -> Path:
        home = Path(pointer.read_text(encoding="utf-8", errors="surrogateescape").partition("\n")[0])
        if home.parent != self.elsewhere:
            raise DataDirError(
                f"{pointer} does not name a folder in {self.elsewhere}. Write the folder of this database into its "
                "first line, or delete the file to start with an empty database."
            )
        return home

    @property
    def account(self) -> Account:
        if not self.data.exists():
            return unprivileged_account(self.owner)
        if os.geteuid() != 0:
            return current_account()
        # PostgreSQL accepts no data folder but its own account's.
        account = owner_of(self.data)
        if account.uid == 0:
            raise DataDirError(
                f"{self.data} belongs to root, and PostgreSQL refuses to run as root. Give it back to its account: "
                f"chown -R {unprivileged_account(self.owner).name} {self.data}"
            )
        return account

    @property
    def _socket_name(self) -> str:
        return f".s.PGSQL.{self.port}"

    # --- asking --------------------------------------------------------------------------------------------------

    @property
    def _pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    def _ask(self) -> State:
        conninfo = make_conninfo(
            **self.connection_parameters(SUPERUSER, SUPERUSER), connect_timeout=int(PROBE_TIMEOUT_S)
        )
        answer = PGconn.ping(os.fsencode(conninfo))
        if answer == Ping.OK:
            return State.UP
        if answer == Ping.REJECT or self._listens():
            return State.WAITING
        return State.DOWN

    def _has_started(self) -> bool:
        try:
            lines = self._pid_file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return False
        return len(lines) > PID_FILE_STATUS_LINE and lines[PID_FILE_STATUS_LINE].strip() == "ready"

    def _remains(self) -> list[Path]:
        return [*super()._remains(), self.socket_dir / f"{self._socket_name}.lock"]

    # --- starting ------------------------------------------------------------------------------------------------

    def _prepare(self, deadline: float) -> list[str | Path]:
        install = postgres_install_for(self.account, self.elsewhere)
        if self.home != self.root:
            self._make_home_elsewhere()
        folders.make_private_folder(self.socket_dir, self.account)
        if not self._has_cluster():
            self._make_cluster(install, deadline)
        folders.make_private_folder(self.data, self.account)
        configuration = self.home / "zenglow.conf"
        folders.write_file(configuration, self._configuration(), self.owner)
        # What decides where the server is goes on the command line, which nothing in its files can override.
        return [
            install / "bin" / "postgres",
            *("-D", self.data),
            *("-c", f"config_file={configuration}"),
            *("-c", "listen_addresses="),
            *("-c", f"port={self.port}"),
            *("-c", f"unix_socket_directories={self.socket_dir}"),
            *("-c", "unix_socket_permissions=0700"),
        ]

    def _configuration(self) -> str:
        settings = {
            **FIXED_SETTINGS,
            **memory_settings(machine.memory_bytes(), machine.free_shared_memory_bytes(), machine.processors()),
        }
        return "\n".join(
            [
                "# Written at each start. To change a setting for good: ALTER SYSTEM SET ...",
                "include 'data/postgresql.conf'",
                *(f"{name} = '{value}'" for name, value in settings.items()),
                "",
            ]
        )

    def _has_cluster(self) -> bool:
        """Whether the data folder holds a cluster of our version. Raises DataDirError when it holds anything else."""
        try:
            version = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if self.data.exists() and any(self.data.iterdir()):
                raise DataDirError(
                    f"{self.data} is not empty and has no PG_VERSION, so it is no PostgreSQL data folder. Restore it "
                    "from a backup, or move it away to start with an empty database."
                ) from None
            return False
        if version != str(POSTGRES_MAJOR):
            raise DataDirError(
                f"{self.data} was made by PostgreSQL {version}, and this is PostgreSQL {POSTGRES_MAJOR}. Make a backup "
                "with the ZenGlow that made it, move the folder away and restore the backup here."
            )
        return True

    def _make_cluster(self, install: Path, deadline: float) -> None:
        """Make the cluster under another name and rename it when complete: a data folder is never half done."""
        logger.info("Making the database in %s (once)", self.data)
        draft = self.home / "data.new"
        self._kill_all_in(draft)  # helpers of an initdb that was killed
        if draft.exists():
            shutil.rmtree(draft)
        folders.make_private_folder(draft, self.account)
        self._run_tool(
            [
                install / "bin" / "initdb",
                *("-D", draft),
                f"--username={SUPERUSER}",
                "--auth=trust",
                "--encoding=UTF8",
                # Built in, so that a new libc can't change the sort order under existing indexes.
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-instructions",
            ],
            deadline,
        )
        self._run_tool(
            [install / "bin" / "postgres", "--single", "-D", draft, "-c", "exit_on_error=on", "template1"],
            deadline,
            BOOTSTRAP_SQL,
        )
        draft.rename(self.data)
        descriptor = os.open(self.home, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _run_tool(self, command: list[str | Path], deadline: float, text: str = "") -> None:
        tool = Path(command[0]).name
        try:
            result = subprocess.run(
                command,
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=max(deadline - time.monotonic(), 1.0),
                check=False,
                cwd="/",
                umask=0o077,
                env=processes.ENVIRONMENT,
                **self.account.popen_arguments(),
            )
        except subprocess.TimeoutExpired as error:
            raise StartTimeoutError(
                f"Making the database in {self.home} took too long. Try again with more time."
            ) from error
        if result.returncode != 0:
            raise StartError(f"Making the database failed; {tool} says:\n{result.stdout.strip()}")

    def _make_home_elsewhere(self) -> None:
        """Make the folder that stands in for a root folder which the account can't enter, and point to it."""
        us = current_account()
        folders.make_folder(self.home, us, 0o711)
        logger.info("%s can't enter %s, so the data are in %s", self.account.name, self.root, self.home)
        back_pointer = self.home / BACK_POINTER_NAME
        if back_pointer.exists():
            self._check_back_pointer(Path(back_pointer.read_text(encoding="utf-8", errors="surrogateescape")))
        folders.write_file(back_pointer, str(self.root), us)
        explanation = (
            f"{self.home}\n\n"
            f"PostgreSQL runs as the account {self.account.name}, which can't enter this folder. Its data are in the\n"
            "folder that the first line names. The two belong together: keep, move or delete both.\n"
        )
        folders.write_file(self.root / POINTER_NAME, explanation, self.owner)

    def _check_back_pointer(self, former_root: Path) -> None:
        if former_root == self.root:
            return
        try:
            pointed = (former_root / POINTER_NAME).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return  # the data folder was moved to here
        if Path(pointed.partition("\n")[0]) == self.home:
            raise DataDirError(
                f"{self.root} is a copy of {former_root}, and both name {self.home} as the place of their database. "
                f"Delete {self.root / POINTER_NAME} to start with an empty database in the copy."
            )
