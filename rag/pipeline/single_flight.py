"""Equal questions at once cost one computation: in this process by a lock, among processes by a short claim in Redis.

An answer is shared only by those who asked while it was computed, under the same key as the response cache, and only
when it is whole: what a fault spoilt, each of them computes anew.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from rag.pipeline import cache

CLAIM_S = 5.0
"""How long another process's computation is waited for; a process that died over it holds up nobody longer."""

WAIT_S = 30.0
"""How long a thread of this process is waited for, which always ends by telling the others."""

POLL_INTERVAL_S = 0.005

Compute = Callable[[], bytes | None]
"""The answer, as the response cache keeps it; ``None`` when it may not be shared."""


@dataclass(eq=False, slots=True)
class _Flight:
    landed: threading.Event = field(default_factory=threading.Event)
    answer: bytes | None = None


_flights: dict[str, _Flight] = {}
_lock = threading.Lock()


def share(
    key: str, compute: Compute, before_waiting: Callable[[], None] = lambda: None, claimed: bool | None = None
) -> bytes | None:
    """What somebody else computed for ``key`` meanwhile; ``None`` after a call of ``compute``, or when it is needed.

    The first caller computes and hears what its own ``compute`` raises. The others wait for it at most `WAIT_S`,
    after a call of ``before_waiting``. ``claimed``: whether the caller's look-up got the claim, if it tried.
    """
    with _lock:
        flight = _flights.get(key)
        leads = flight is None
        if flight is None:
            flight = _flights[key] = _Flight()
    if not leads and claimed:
        # Somebody without the claim was quicker to get here, and finds the answer in the cache as another process does.
        _compute_claimed(key, compute)
        return None
    if not leads:
        before_waiting()
        flight.landed.wait(WAIT_S)
        return flight.answer
    try:
        found = None if claimed else _from_another_process(key)
        if found is None:
            flight.answer = _compute_claimed(key, compute)
        else:
            flight.answer = found
        return found
    finally:
        with _lock:
            del _flights[key]
        flight.landed.set()


def _from_another_process(key: str) -> bytes | None:
    """The answer that another process has under way, once it is there; ``None`` when the claim is now ours."""
    deadline = time.monotonic() + CLAIM_S
    try:
        while not cache.claim(key, CLAIM_S):
            found = cache.peek("full", key)
            if found is not None or time.monotonic() > deadline:
                return found
            time.sleep(POLL_INTERVAL_S)
    except cache.CacheUnavailableError:
        return None  # who computes will say so
    return None


def _compute_claimed(key: str, compute: Compute) -> bytes | None:
    answer: bytes | None = None
    try:
        answer = compute()
    finally:
        # A whole answer is in the cache now, where everybody finds it: its claim ends by itself.
        if answer is None:
            with suppress(cache.CacheUnavailableError):
                cache.disclaim(key)
    return answer
