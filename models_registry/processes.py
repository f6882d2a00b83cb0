"""What every process of the installation holds in memory, told to each other over Redis.

A process writes its reports every `BEAT_S`, and at once when one changes; they expire when it no longer does. Without
Redis each process knows only of itself, and says so.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

import redis
from django.conf import settings
from django.core.cache import cache
from django_redis import get_redis_connection

from models_registry import loading
from models_registry.loading import LoadReport, LoadState

logger = logging.getLogger(__name__)

BEAT_S = 5.0
EXPIRES_S = 20.0
MOST_PROCESSES = 1000


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """One process, or server of models, with what it holds. ``name`` is ``role host:pid``, or the server's label."""

    name: str
    role: str
    reported_at: float
    models: Sequence[LoadReport]


def own_name(role: str) -> str:
    """How this process is called: unique among all hosts."""
    return f"{role} {socket.gethostname()}:{os.getpid()}"


def report_elsewhere(label: str, models: Sequence[LoadReport]) -> None:
    """What a server of models holds in memory, as somebody has just seen it; forgotten unless it is seen again."""
    expires_s = max(2.0 * settings.REGISTRY_DISCOVER_INTERVAL_S, EXPIRES_S)
    try:
        _write(label, "server", models, expires_s)
    except redis.RedisError as error:
        logger.warning("What %s holds can't be told (%s)", label, type(error).__name__)


def all_reports() -> list[ProcessReport]:
    """Of every process that lives, sorted by name. Raises `redis.RedisError`."""
    connection = get_redis_connection("default")
    now = _now(connection)
    connection.zremrangebyscore(_index(), "-inf", now)
    names = connection.zrangebyscore(_index(), now, "+inf", start=0, num=MOST_PROCESSES)
    contents = connection.mget([_key(name.decode()) for name in names]) if names else []
    return sorted((_parsed(content) for content in contents if content is not None), key=lambda report: report.name)


def report_of(label: str) -> LoadReport:
    """The version in this process, or in another web process that has it ready while this one has not."""
    own = loading.report_of(label)
    if own.state is not LoadState.UNLOADED:
        return own
    try:
        told = [report for process in all_reports() if process.role == "web" for report in process.models]
    except (redis.RedisError, OSError):
        return own
    return next((report for report in told if report.label == label and report.state is LoadState.READY), own)


def workers() -> list[str]:
    """The background workers among them, as ``host:pid``. Raises `redis.RedisError`."""
    return [report.name.removeprefix("worker ") for report in all_reports() if report.role == "worker"]


class Announcer:
    """A background thread that tells of this process for as long as it lives."""

    def __init__(self, role: str) -> None:
        self.name = own_name(role)
        self._role = role
        self._changed = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry-announcer", daemon=True)

    def start(self) -> None:
        loading.on_change(self._changed.set)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and take back what it told."""
        self._stopping.set()
        self._changed.set()
        self._thread.join()

    def tell(self) -> None:
        """Write the reports now. Raises `redis.RedisError`."""
        _write(self.name, self._role, loading.reports(), EXPIRES_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            try:
                self.tell()
            except redis.RedisError as error:
                logger.debug("This process can't tell of its models (%s)", type(error).__name__)
            self._changed.wait(BEAT_S)
        try:
            withdraw(self.name)
        except redis.RedisError:
            logger.debug("What this process told expires by itself")


def announce(role: str) -> Announcer:
    """Tell of this process from now on. For long-lived ones, after they forked."""
    announcer = Announcer(role)
    announcer.start()
    return announcer


def _write(name: str, role: str, models: Sequence[LoadReport], expires_s: float) -> None:
    client = get_redis_connection("default")
    now = _now(client)
    report = ProcessReport(name, role, now, models)
    connection = client.pipeline(transaction=True)
    connection.set(_key(name), json.dumps(asdict(report), default=_as_text), px=int(expires_s * 1000))
    connection.zadd(_index(), {name: now + expires_s})
    connection.execute()


def _now(client: redis.Redis) -> float:
    """Redis's own clock: hosts may disagree, and one that is behind would seem to have died."""
    seconds, microseconds = client.time()
    return seconds + microseconds / 1e6


def withdraw(name: str) -> None:
    """Take back what a process told. Raises `redis.RedisError`."""
    connection = get_redis_connection("default")
    connection.delete(_key(name))
    connection.zrem(_index(), name)


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no part of a report")


def _parsed(content: bytes) -> ProcessReport:
    fields = json.loads(content)
    models = [
        LoadReport(
            **one
            | {
                "state": LoadState(one["state"]),
                "since": None if one["since"] is None else datetime.fromisoformat(one["since"]),
            }
        )
        for one in fields.pop("models")
    ]
    return ProcessReport(**fields, models=models)


def _index() -> str:
    """Key of the sorted set of names by the time at which they expire."""
    return str(cache.make_key("registry:processes"))


def _key(name: str) -> str:
    return f"{_index()}:{name}"
