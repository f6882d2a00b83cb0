"""The threads on which sockets do what blocks: looking up who somebody is, reading figures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast

from channels.db import database_sync_to_async

P = ParamSpec("P")
Result = TypeVar("Result")

_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="socket")


def in_thread(work: Callable[P, Result]) -> Callable[P, Awaitable[Result]]:
    """``work`` as a coroutine function, on one of a few shared threads, with its database connections given back.

    Without this, Channels would do all blocking work of all sockets one after another on a single thread.
    """
    return cast(Callable[P, Awaitable[Result]], database_sync_to_async(work, thread_sensitive=False, executor=_pool))
