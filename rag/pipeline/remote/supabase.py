"""Dense retrieval by PostgREST: ``POST /rest/v1/rpc/match_documents``, the function of ``rag/sql/match_documents.sql``.

Supabase's database is the one that ``DATABASE_URL`` names, or a replica of it. Words are searched in it directly.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import httpx
import numpy as np
from postgrest import APIError, SyncPostgrestClient

from ops.contracts.health import Report, State
from ops.vault import VaultReadError
from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.lexical import retrieve_lexical
from rag.pipeline.remote.guard import CircuitBreaker, Guard
from rag.pipeline.remote.recheck import still_eligible
from rag.pipeline.retrieval import RetrievalError
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Float32Array, Int64Array

FUNCTION = "match_documents"

PASSING_CODES = frozenset({"502", "503", "504", "PGRST000", "PGRST001", "PGRST002", "PGRST003"})
"""Of a gateway between two states, and of PostgREST without a database connection (its documentation, Errors)."""

NOT_INSTALLED = frozenset({"PGRST202", "42883"})
REFUSED = frozenset({"401", "403", "PGRST301", "PGRST302", "PGRST303", "42501"})

INSTALL = (
    "The database has no function match_documents as this version calls it: apply rag/sql/match_documents.sql to it."
)


class SupabaseRpc:
    """The mode ``supabase_rpc``. Safe to use from several threads at once."""

    def __init__(self, url: str, key: Callable[[], str], timeout_s: float, pause_s: float) -> None:
        """``key`` is asked at each call: a vault may have changed it. It may raise `VaultReadError`."""
        address = f"{url.rstrip('/')}/rest/v1"
        # The client's own retries sleep for whole seconds; the guard's are ours to bound.
        self._client = SyncPostgrestClient(
            address,
            headers={},
            http_client=httpx.Client(base_url=address, auth=_WithKey(key), timeout=timeout_s),
            retry_enabled=False,
        )
        self._guard = Guard(
            "PostgREST", explain=_explain, is_passing=_is_passing, patience_s=timeout_s, breaker=CircuitBreaker(pause_s)
        )

    def dense(
        self, cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, query_embedding: Float32Array
    ) -> Int64Array:
        if not query_embedding.any():
            return np.empty(0, dtype=np.int64)
        arguments = {
            "query_embedding": _literal(query_embedding),
            "match_count": snapshot.candidate_depth,
            "filter": dict(eligibility.filters),
            "collection": snapshot.collection_id,
            "space": snapshot.space.id,
            "reader_groups": None if eligibility.groups is None else list(eligibility.groups),
        }
        rows = self._guard.call(lambda: self._post(arguments))
        found = np.array([row["id"] for row in rows], dtype=np.int64)
        return still_eligible(cursor, snapshot, eligibility, found)

    lexical = staticmethod(retrieve_lexical)

    def lag(self, cursor: HotCursor, snapshot: PipelineSnapshot) -> str | None:
        return None

    def check(self) -> Report:
        """Calls the function for nothing: right address, key, function and arguments."""
        nothing = {
            "query_embedding": "[0]",
            "match_count": 0,
            "filter": {},
            "collection": 0,
            "space": 0,
            "reader_groups": None,
        }
        try:
            self._guard.ask(lambda: self._post(nothing))
        except RetrievalError as fault:
            return Report(State.DEGRADED, f"Only words are compared: {fault}")
        return Report(State.OK)

    def close(self) -> None:
        self._client.session.close()

    def _post(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        data = self._client.rpc(FUNCTION, arguments).execute().data
        if not isinstance(data, list) or any(not isinstance(row, dict) or "id" not in row for row in data):
            raise _UnexpectedAnswerError
        return data


class _WithKey(httpx.Auth):
    """As Supabase's gateway wants it, and PostgREST behind it."""

    def __init__(self, key: Callable[[], str]) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        key = self._key()
        request.headers["apikey"] = key
        request.headers["Authorization"] = f"Bearer {key}"
        yield request


class _UnexpectedAnswerError(Exception):
    """An answer with status 200 that isn't the function's."""


def _literal(vector: Float32Array) -> str:
    """As pgvector reads it; every float32 survives."""
    return "[" + ",".join(map(repr, vector.tolist())) + "]"


def _is_passing(error: BaseException) -> bool:
    """A time-out isn't: the next try would cost as long."""
    if isinstance(error, APIError):
        return str(error.code) in PASSING_CODES
    return isinstance(error, httpx.ConnectError | httpx.RemoteProtocolError | httpx.ReadError | httpx.WriteError)


def _explain(error: BaseException) -> str | None:
    """In our own words: a server's message may hold parts of the request."""
    if isinstance(error, VaultReadError):
        return str(error)
    if isinstance(error, httpx.TimeoutException):
        return "PostgREST did not answer in time (RAG_RETRIEVAL_TIMEOUT_S)."
    if isinstance(error, httpx.HTTPError):
        return f"PostgREST can't be reached at SUPABASE_URL ({type(error).__name__})."
    if isinstance(error, _UnexpectedAnswerError):
        return "What SUPABASE_URL answered is not what match_documents returns."
    if not isinstance(error, APIError):
        return None
    code = str(error.code)
    if code in NOT_INSTALLED:
        return INSTALL
    if code in REFUSED or error.code is None:
        return "PostgREST refuses SUPABASE_KEY: it must be a service key."
    return f"PostgREST answered with the error {code}."
