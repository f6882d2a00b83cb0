"""What waits in the queues of Celery's broker, and for how long."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from typing import Any

from amqp.exceptions import ChannelError
from celery import current_app
from celery.signals import before_task_publish
from redis import Redis

SENT_AT = "sent_at"
"""Header of every message: when it was queued, in seconds since 1970."""

NOT_FOUND = "404"
REUSED_FOR_S = 1.0
TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. ``oldest_s`` is the age of the message that is next; ``None`` where the broker does not let one look."""

    name: str
    depth: int
    oldest_s: float | None


_lock = threading.Lock()
_last: tuple[float, list[Queue]] = (float("-inf"), [])


def queues() -> list[Queue]:
    """Every queue that our workers take from. An answer is reused for a second. Raises what the broker's client raises.

    Tasks that a worker has already taken are not counted.
    """
    global _last
    with _lock:
        asked_at, found = _last
        if time.monotonic() - asked_at >= REUSED_FOR_S:
            _last = (time.monotonic(), found := _ask())
        return found


@before_task_publish.connect
def _note_time(headers: dict[str, Any] | None = None, **_: Any) -> None:
    if headers is not None:
        headers[SENT_AT] = time.time()


def _ask() -> list[Queue]:
    names = sorted({queue.name for queue in current_app.amqp.queues.values()}) or [current_app.conf.task_default_queue]
    bounds = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "max_retries": 1}
    with current_app.connection_for_read(transport_options=bounds) as connection:
        connection.ensure_connection(max_retries=1, timeout=TIMEOUT_S)  # type: ignore[arg-type]  # it takes fractions
        channel: Any = connection.channel()
        if hasattr(channel, "global_keyprefix"):  # of kombu's Redis transport alone
            # A client of our own: kombu's adds its prefix to some commands and not to others.
            redis: Redis = Redis(connection_pool=channel.pool)
            return [_in_redis(redis, name, f"{channel.global_keyprefix}{name}") for name in names]
        return [Queue(name, _declared_depth(channel, name), None) for name in names]


def _in_redis(redis: Redis, name: str, key: str) -> Queue:
    """A list whose right end is taken next."""
    pipeline = redis.pipeline()
    pipeline.llen(key)
    pipeline.lindex(key, -1)
    depth, oldest = pipeline.execute()
    if oldest is None:
        return Queue(name, 0, 0.0)
    sent_at = json.loads(oldest).get("headers", {}).get(SENT_AT)
    return Queue(name, depth, None if sent_at is None else max(time.time() - float(sent_at), 0.0))


def _declared_depth(channel: Any, name: str) -> int:
    try:
        return int(channel.queue_declare(queue=name, passive=True).message_count)
    except ChannelError as error:
        if str(error.reply_code) == NOT_FOUND:  # nothing was ever put in
            return 0
        raise
