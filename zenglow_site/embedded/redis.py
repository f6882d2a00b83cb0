"""The embedded Redis: caches, rate limits, the queue of background work.

Layout of the root folder: `data/` (the append-only file), `run/` (the socket), `redis.conf` (rewritten at each
start), `redis-server.log`. There is no TCP port, so no password either: only its account and root can enter the
socket's folder.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from zenglow_site.embedded import folders, machine
from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.installs import redis_server_for
from zenglow_site.embedded.machine import MIB, clamp
from zenglow_site.embedded.server import PROBE_TIMEOUT_S, EmbeddedServer, State

DATABASES = 16

FIXED_SETTINGS: Mapping[str, str] = {
    "port": "0",
    "unixsocketperm": "700",
    "daemonize": "no",
    "databases": str(DATABASES),
    # Queued work must last: at most one second of it is lost with the machine. A tail that a crash cut off is dropped.
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    "aof-use-rdb-preamble": "yes",
    "save": '""',
    # Queued tasks never expire, so only caches are thrown out when memory is short.
    "maxmemory-policy": "volatile-lru",
    "logfile": '""',
}


def memory_limit_bytes(memory_bytes: int) -> int:
    """Redis's share of the machine's memory: a thirty-second part, between 64 and 512 MiB."""
    return clamp(memory_bytes // 32, 64 * MIB, 512 * MIB)


class EmbeddedRedis(EmbeddedServer):
    """Redis on one folder."""

    name = "Redis"
    program = "redis-server"
    stop_signals = (signal.SIGTERM, signal.SIGKILL)

    def url(self, database: int) -> str:
        """`unix://` URL for redis-py, django-redis and channels-redis."""
        return f"unix://{quote(str(self.socket_path))}?db={_checked(database)}"

    def celery_url(self, database: int) -> str:
        """`redis+socket://` URL for Celery's broker."""
        return f"redis+socket://{quote(str(self.socket_path))}?virtual_host={_checked(database)}"

    @property
    def account(self) -> Account:
        """The owner of the root folder. Redis has no objection to root, and under root's own account no other has to
        be let into a closed folder; root alone can reach it then, and its only clients are root's."""
        return self.owner

    @property
    def _socket_name(self) -> str:
        return "redis.sock"

    @property
    def _pid_file(self) -> Path:
        return self.data / "redis.pid"

    def _ask(self) -> State:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(PROBE_TIMEOUT_S)
            try:
                client.connect(str(self.socket_path))
                client.sendall(b"PING\r\n")
                answer = client.recv(64)
            except (FileNotFoundError, ConnectionRefusedError):
                return State.DOWN
            except OSError:
                return State.WAITING
        # Errors other than LOADING (too many clients, a full disk) come from a server that runs.
        return State.WAITING if answer == b"" or answer.startswith(b"-LOADING") else State.UP

    def _prepare(self, deadline: float) -> list[str | Path]:
        program = redis_server_for(self.account, self.elsewhere)
        folders.make_private_folder(self.data, self.account)
        folders.make_private_folder(self.socket_dir, self.account)
        configuration = self.home / "redis.conf"
        folders.write_file(configuration, self._configuration(), self.owner)
        return [program, configuration]

    def _configuration(self) -> str:
        settings = {
            **FIXED_SETTINGS,
            "maxmemory": str(memory_limit_bytes(machine.memory_bytes())),
            "dir": _quoted(self.data),
            "unixsocket": _quoted(self.socket_path),
            "pidfile": _quoted(self._pid_file),
        }
        return "\n".join(["# Written at each start.", *(f"{name} {value}" for name, value in settings.items()), ""])


def _checked(database: int) -> int:
    if not 0 <= database < DATABASES:
        raise ValueError(f"Redis databases are numbered 0 to {DATABASES - 1}, not {database}")
    return database


def _quoted(path: Path) -> str:
    """A path as redis.conf reads it: within double quotes, backslash escapes."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
