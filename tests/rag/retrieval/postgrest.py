"""A small server that answers as PostgREST behind Supabase's gateway does, on the real database.

Functions and their arguments are looked up in the catalogue, called by name with the JSON body, and SQL errors become
the documented statuses (PostgREST, References, Errors). It runs on the test's own connection, inside its transaction.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
from django.db import connection
from psycopg import sql

from tests.patience import PATIENCE_S
from tests.serving import free_port

KEY = "service-role-key"
PREFIX = "/rest/v1/rpc/"


class Refusal(Exception):
    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def status_of(sqlstate: str) -> int:
    """The HTTP status of a SQL error, for a caller that is not anonymous."""
    exact = {"42883": 404, "42P01": 404, "42501": 403, "23505": 409, "23503": 409, "P0001": 400}
    classes = {"08": 503, "53": 503, "57": 500}
    return exact.get(sqlstate) or classes.get(sqlstate[:2], 400)


class PostgREST:
    """``with PostgREST() as server``; `stop` and `start` again on the same port, as a machine that goes and comes."""

    def __init__(self) -> None:
        connection.ensure_connection()
        self._database: psycopg.Connection[Any] = connection.connection
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self._connections: set[socket.socket] = set()
        self.requests: list[dict[str, Any]] = []
        """Bodies of the calls that reached a function, in order."""
        self.answers: list[tuple[int, str]] = []
        """Answers to give instead, first come first served: what a gateway says, not PostgREST."""
        self.release = threading.Event()
        """While it isn't set, no answer leaves."""
        self.release.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.release.wait(PATIENCE_S)
                try:
                    status, answer = outer.answers.pop(0) if outer.answers else (200, outer.call(self, body))
                except Refusal as refusal:
                    status = refusal.status
                    fields = {"code": refusal.code, "message": str(refusal), "details": None, "hint": None}
                    answer = json.dumps({name: fields[name] for name in fields if name != "code" or refusal.code})
                sent = answer.encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; charset=utf-8")
                self.send_header("Content-Length", str(len(sent)))
                with suppress(OSError):  # the caller has gone
                    self.end_headers()
                    self.wfile.write(sent)

            def do_GET(self) -> None:
                self.send_error(405)

            def setup(self) -> None:
                super().setup()
                outer._connections.add(self.connection)

            def finish(self) -> None:
                outer._connections.discard(self.connection)
                super().finish()

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Nothing listens any more, and open connections end."""
        assert self._server is not None
        self._server.shutdown()
        for held in list(self._connections):
            with suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None

    def call(self, request: BaseHTTPRequestHandler, body: bytes) -> str:
        """The JSON of a function's rows. Raises `Refusal`."""
        if not request.headers["apikey"]:
            raise Refusal(401, None, "No API key found in request")
        if request.headers["apikey"] != KEY or request.headers["Authorization"] != f"Bearer {KEY}":
            raise Refusal(401, "PGRST301", "JWSError JWSInvalidSignature")
        if not request.path.startswith(PREFIX):
            raise Refusal(404, "PGRST205", f"Could not find the table '{request.path}' in the schema cache")
        if request.headers["Content-Profile"] not in {None, "public"}:
            raise Refusal(406, "PGRST106", "Invalid schema")
        try:
            arguments = json.loads(body)
        except ValueError as error:
            raise Refusal(400, "PGRST102", "Empty or invalid json") from error
        self.requests.append(arguments)
        try:
            with self._database.transaction():
                return self._run(request.path.removeprefix(PREFIX), arguments)
        except psycopg.Error as error:
            state = error.sqlstate or "08000"
            raise Refusal(status_of(state), state, error.diag.message_primary or "") from error

    def _run(self, function: str, arguments: dict[str, Any]) -> str:
        found = self._database.execute(
            """
            SELECT proargnames[:pronargs], proargtypes::regtype[]::text[] FROM pg_proc
            WHERE proname = %s AND pronamespace = 'public'::regnamespace
            """,
            (function,),
        ).fetchall()
        types = next((dict(zip(*row, strict=True)) for row in found if set(row[0] or ()) == set(arguments)), None)
        if types is None:
            raise Refusal(404, "PGRST202", f"Could not find the function public.{function} in the schema cache")
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(types[name])) for name in arguments
        )
        given = sql.SQL(", ").join(
            sql.SQL("{0} := (SELECT {0} FROM body)").format(sql.Identifier(name)) for name in arguments
        )
        statement = sql.SQL(
            "WITH body AS (SELECT * FROM json_to_record(%s) AS _({columns})) "
            "SELECT coalesce(json_agg(row), '[]')::text FROM public.{function}({given}) AS row"
        ).format(columns=columns, function=sql.Identifier(function), given=given)
        row = self._database.execute(statement, (json.dumps(arguments),)).fetchone()
        assert row is not None
        return str(row[0])


@contextmanager
def running() -> Iterator[PostgREST]:
    server = PostgREST()
    server.start()
    try:
        yield server
    finally:
        server.release.set()
        if server._server is not None:
            server.stop()
