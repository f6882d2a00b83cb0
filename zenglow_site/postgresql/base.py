"""Django's PostgreSQL backend, but for two things: how it finds out that a pooled connection is dead, and that one can
be had for a moment (`DatabaseWrapper.borrow`).

Django has the pool ask the server before it hands a connection out, for each request a round trip. A server that was
stopped has closed its sockets, which is seen on this side without asking. One that hangs, or a network that is gone
without a word, is noticed by the first statement in either case: `zenglow_site.database.BoundedConnection`.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg
from django.db.backends.postgresql import base
from psycopg import pq


class DatabaseWrapper(base.DatabaseWrapper):
    """``CONN_HEALTH_CHECKS`` is to be off."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection whose server has not hung up: from the pool, where there is one."""
        if self.pool is None:
            return super().get_new_connection(conn_params)
        with _at_hand.asking():
            connection = super().get_new_connection(conn_params)
        return connection if is_open(connection) else self._from_pool(dead=connection)

    def borrow(self) -> Any:
        """A connection of the pool's whose server has not hung up, for a moment, without making it this wrapper's.

        `give_back` it.
        """
        return _at_hand.take(self.pool) or self._from_pool()

    def give_back(self, connection: Any) -> None:
        """Part with what was borrowed."""
        pool = connection._pool  # as Django does: this wrapper may have another by now
        if not _at_hand.keep(pool, connection):
            pool.putconn(connection)

    def close_pool(self) -> None:
        """Close the pool's connections, the one at hand among them."""
        with _at_hand.asking():
            super().close_pool()

    def _from_pool(self, dead: psycopg.Connection[Any] | None = None) -> Any:
        """``dead``: one that was taken already, and whose server has hung up."""
        pool = self.pool
        while True:
            if dead is not None:
                dead.close()
                pool.putconn(dead)  # which makes another in its place
            elif pool.closed:  # nobody has used it yet
                pool.open()
            with _at_hand.asking():
                connection = pool.getconn()
            if is_open(connection):
                return connection
            dead = connection


class _Kept(NamedTuple):
    pool: Any
    connection: psycopg.Connection[Any]
    poll: select.poll


class _AtHand:
    """One idle connection that is not in its pool, for whoever borrows next. For any thread.

    To give one back to the pool and to take it out again keeps the processor as long as a short statement does. While
    anybody asks the pool nothing is kept, so that nobody waits there for what lies here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._asking = 0

    def take(self, pool: Any) -> psycopg.Connection[Any] | None:
        """What is kept of the pool, if its server has not hung up."""
        with self._lock:
            kept, self._kept = self._kept, None
        if kept is None:
            return None
        if kept.pool is pool and not kept.connection.closed and not kept.poll.poll(0):
            return kept.connection
        kept.pool.putconn(kept.connection)
        return None

    def keep(self, pool: Any, connection: psycopg.Connection[Any]) -> bool:
        """Whether it is kept: then it is not to be put back."""
        pgconn = connection.pgconn
        if self._kept is not None or pool.closed or pgconn.transaction_status != pq.TransactionStatus.IDLE:
            return False
        poll = select.poll()
        poll.register(pgconn.socket, select.POLLIN)
        with self._lock:
            if self._asking or self._kept is not None:
                return False
            self._kept = _Kept(pool, connection, poll)
        return True

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Around a call of a pool, which has what was kept before."""
        with self._lock:
            self._asking += 1
            kept, self._kept = self._kept, None
        try:
            if kept is not None:
                kept.pool.putconn(kept.connection)
            yield
        finally:
            with self._lock:
                self._asking -= 1


_at_hand = _AtHand()


def _begin_anew() -> None:
    """In a forked child, to which what is kept does not belong."""
    global _at_hand
    _at_hand = _AtHand()


os.register_at_fork(after_in_child=_begin_anew)


def is_open(connection: psycopg.Connection[Any]) -> bool:
    """Whether an idle connection can be used. The server is asked only where it has said something by itself."""
    if connection.closed:
        return False
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if not poll.poll(0):
        return True
    try:
        connection.execute("")  # it hung up, or sent a notice
    except psycopg.Error:
        return False
    return True
