"""SQL statements of the hot path: prepared, in binary, and run by libpq itself, without a cursor.

A cursor of psycopg takes five times as much of the processor as the statement is worth when the answer is one row:
for a search that is answered from its cache it was a quarter of the time.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache
from itertools import count
from typing import Any

import psycopg
from psycopg import adapt, pq
from psycopg.abc import PQGen, Transformer
from psycopg.adapt import PyFormat
from psycopg.errors import error_from_result
from psycopg.waiting import Ready, Wait

Row = tuple[Any, ...]
Parameters = Mapping[str, Any]

MOST_PREPARED = 100
"""Of one connection, as psycopg itself keeps; the one that was prepared first makes room."""

_PLACEHOLDER = re.compile(r"%(?:%|\((\w+)\)s)")


class _Prepared:
    """What is known of a connection. Its lock guards it."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self.transformer: Transformer = adapt.Transformer(connection.adapters)
        """Remembers how each type is read and written, for all statements, as a cursor's does for its own.

        Of the adapters alone, so that this does not keep the connection: text is UTF-8 and time is UTC, as Django asks
        of every connection.
        """


_prepared: weakref.WeakKeyDictionary[psycopg.Connection[Any], _Prepared] = weakref.WeakKeyDictionary()
_numbers = count(1)


def fetch(connection: psycopg.Connection[Any], statement: str, parameters: Parameters) -> list[Row]:
    """All rows of a statement that is one of our constants, never built from a request; placeholders ``%(name)s``.

    Raises `psycopg.Error`.
    """
    _begin_transaction(connection)
    with connection.lock:  # as a cursor does: tests share a connection between threads
        return _receive(connection, _send(connection, statement, parameters))


def begin(
    connection: psycopg.Connection[Any], statement: str, parameters: Parameters
) -> AbstractContextManager[Callable[[], list[Row]]]:
    """As `fetch`, but PostgreSQL works while the block computes something else; calling what is given waits for it.

    It is called once, before anything else is asked of the connection, or not at all.
    """
    _begin_transaction(connection)
    connection.lock.acquire()  # as `fetch`, until it is answered
    try:
        return _awaited(connection, _send(connection, statement, parameters))
    except BaseException:
        connection.lock.release()
        raise


@contextmanager
def _awaited(connection: psycopg.Connection[Any], transformer: Transformer) -> Iterator[Callable[[], list[Row]]]:
    received = False

    def rows() -> list[Row]:
        nonlocal received
        received = True
        try:
            return _receive(connection, transformer)
        finally:
            connection.lock.release()

    try:
        yield rows
    finally:
        if not received:
            with suppress(psycopg.Error):  # nobody wants it any more
                rows()


def _begin_transaction(connection: psycopg.Connection[Any]) -> None:
    """If one is to be begun: psycopg does so with the first statement."""
    if not connection.autocommit and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE:
        connection.execute(b"")


def _send(connection: psycopg.Connection[Any], statement: str, parameters: Parameters) -> Transformer:
    """Have PostgreSQL begin with a statement; what is given reads its answer."""
    pgconn = connection.pgconn
    text, names = _numbered(statement)
    known = _prepared.get(connection)
    if known is None:
        known = _prepared[connection] = _Prepared(connection)
    transformer = known.transformer
    values = transformer.dump_sequence([parameters[name] for name in names], [PyFormat.AUTO] * len(names))
    types = transformer.types or ()
    name = known.names.get((statement, types))
    if name is None:
        name = known.names[statement, types] = _prepare(connection, known.names, text, types)
    pgconn.send_query_prepared(name, values, transformer.formats, result_format=pq.Format.BINARY)
    if pgconn.flush():
        connection.wait(_flushed(pgconn))
    return transformer


def _prepare(
    connection: psycopg.Connection[Any],
    known: dict[tuple[str, tuple[int, ...]], bytes],
    text: bytes,
    types: tuple[int, ...],
) -> bytes:
    if len(known) >= MOST_PREPARED:
        connection.pgconn.send_query(b"DEALLOCATE " + known.pop(next(iter(known))))
        _results(connection)
    name = b"zenglow_%d" % next(_numbers)
    connection.pgconn.send_prepare(name, text, types)
    connection.wait(_flushed(connection.pgconn))
    _results(connection)
    return name


def _receive(connection: psycopg.Connection[Any], transformer: Transformer) -> list[Row]:
    (result,) = _results(connection)
    transformer.set_pgresult(result, format=pq.Format.BINARY)
    return transformer.load_rows(0, result.ntuples, tuple)


def _results(connection: psycopg.Connection[Any]) -> list[pq.abc.PGresult]:
    results = connection.wait(_received(connection.pgconn))
    for result in results:
        if result.status not in {pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK}:
            raise error_from_result(result, encoding=connection.info.encoding)
    return results


def _flushed(pgconn: pq.abc.PGconn) -> PQGen[None]:
    """For `psycopg.Connection.wait`: until all is sent."""
    while pgconn.flush():
        ready = yield Wait.RW
        if ready & Ready.R:  # its answers must not fill the way back
            pgconn.consume_input()


def _received(pgconn: pq.abc.PGconn) -> PQGen[list[pq.abc.PGresult]]:
    """For `psycopg.Connection.wait`: until all is answered."""
    results: list[pq.abc.PGresult] = []
    pgconn.consume_input()
    while True:
        while pgconn.is_busy():
            yield Wait.R
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return results
        results.append(result)


@lru_cache(maxsize=256)
def _numbered(statement: str) -> tuple[bytes, tuple[str, ...]]:
    """The statement with PostgreSQL's own placeholders, and the parameters' names in their order."""
    names: dict[str, int] = {}

    def number(match: re.Match[str]) -> str:
        name = match[1]
        return "%" if name is None else f"${names.setdefault(name, len(names) + 1)}"

    return _PLACEHOLDER.sub(number, statement).encode(), tuple(names)
