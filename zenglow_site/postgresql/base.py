"""Django's PostgreSQL backend, but for how it finds out that a pooled connection is dead.

Django has the pool ask the server before it hands a connection out, for each request a round trip. A server that was
stopped has closed its sockets, which is seen on this side without asking. One that hangs, or a network that is gone
without a word, is noticed by the first statement in either case: `zenglow_site.database.BoundedConnection`.
"""

from __future__ import annotations

import select
from typing import Any

import psycopg
from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """``CONN_HEALTH_CHECKS`` is to be off."""

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """A connection whose server has not hung up: from the pool, where there is one."""
        connection = super().get_new_connection(conn_params)
        return connection if self.pool is None or is_open(connection) else self.borrow(dead=connection)

    def borrow(self, dead: psycopg.Connection[Any] | None = None) -> Any:
        """A connection of the pool's whose server has not hung up, to be put back without having been this wrapper's.

        ``dead``: one that was taken already, and whose server has.
        """
        pool = self.pool
        while True:
            if dead is not None:
                dead.close()
                pool.putconn(dead)  # which makes another in its place
            elif pool.closed:  # nobody has used it yet
                pool.open()
            connection = pool.getconn()
            if is_open(connection):
                return connection
            dead = connection


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
