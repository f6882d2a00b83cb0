"""Telling every process over Redis that something else is live now.

A notice only saves time: a process that misses it, or has no Redis, sees the change at its next look at the database.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis
from django.conf import settings
from django.db import transaction
from django_redis import get_redis_connection

logger = logging.getLogger(__name__)

POLL_S = 0.5
RECONNECT_S = 1.0


def channel() -> str:
    """The Redis channel of this installation."""
    return f"{settings.CACHES['default']['KEY_PREFIX']}:registry:changed"


def announce_on_commit() -> None:
    """Publish a notice once the current transaction has committed."""
    transaction.on_commit(_publish)


def _publish() -> None:
    try:
        get_redis_connection("default").publish(channel(), "changed")
    except redis.RedisError as error:
        logger.warning("No change notice was sent (%s); other processes follow a little later", type(error).__name__)


class Listener:
    """A background thread that calls ``on_notice`` for every notice, for as long as the process lives."""

    def __init__(self, on_notice: Callable[[], None]) -> None:
        self._on_notice = on_notice
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.subscribed = threading.Event()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="registry-notices", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread; it has gone when this returns."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (redis.RedisError, OSError):
                self.subscribed.clear()
                self._stopping.wait(RECONNECT_S)

    def _listen(self) -> None:
        with get_redis_connection("default").pubsub() as subscription:
            subscription.subscribe(channel())
            while not self._stopping.is_set():
                message = subscription.get_message(timeout=POLL_S)
                if message is None:
                    continue
                # The confirmation counts as a notice too: something may have changed before it came.
                if message["type"] == "subscribe":
                    self.subscribed.set()
                self._on_notice()
