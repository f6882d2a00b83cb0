"""The feature cache and the response cache, in Redis. Without Redis every lookup is a miss and says so."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Literal

from django.core.cache import cache
from msgpack.exceptions import UnpackException
from redis.exceptions import RedisError

from ops.contracts.metrics import declare_counter
from ops.instrumentation.snapshot import SNAPSHOT

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""How long a failed Redis is left alone, so that a hanging one costs one time-out a second, not one a request."""

LOOKUPS = declare_counter(
    "zenglow_cache_lookups",
    "Cache lookups of the query pipeline by their outcome, and why.",
    ("cache", "outcome", "reason"),
)

CacheName = Literal["feature", "full"]

FORMAT = 2
"""Part of every key: raise it when the content of an entry changes its shape, so that older entries are not read."""

_skip_until = 0.0


class CacheUnavailableError(Exception):
    """Redis didn't answer; the query is answered without it."""


def get(name: CacheName, key: str, why_missed: Callable[[], str] = lambda: "cold") -> bytes | None:
    """What was stored, or ``None``, also when it is damaged. Raises `CacheUnavailableError`.

    A miss is counted under what ``why_missed`` returns.
    """
    try:
        found: bytes | None = _call("get", _name(name, key))
    except CacheUnavailableError:
        count(name, "miss", "unavailable")
        raise
    except (UnpackException, ValueError):
        count(name, "miss", "damaged")
        return None
    if found is None:
        count(name, "miss", why_missed())
    else:
        count(name, "hit", "stored")
    return found


def count(name: CacheName, outcome: Literal["hit", "miss"], reason: str) -> None:
    """Count a lookup for ``/metrics`` and ``/metrics/json``."""
    LOOKUPS.labels(name, outcome, reason).inc()
    SNAPSHOT.add_cache_lookup(name, outcome, reason)


def peek(name: CacheName, key: str) -> bytes | None:
    """As `get`, uncounted: for somebody who waits for the entry."""
    try:
        return _call("get", _name(name, key))
    except (UnpackException, ValueError):
        return None


def put(name: CacheName, key: str, value: bytes, ttl_s: int) -> None:
    """Store for ``ttl_s`` seconds. Raises `CacheUnavailableError`."""
    _call("set", _name(name, key), value, ttl_s)


def claim(key: str, for_s: float) -> bool:
    """Whether this process is to compute the answer of ``key``: nobody else claims it now. It ends after ``for_s``.

    Raises `CacheUnavailableError`.
    """
    return bool(_call("add", _name("claim", key), 1, for_s))


def disclaim(key: str) -> None:
    """End a claim early. Raises `CacheUnavailableError`."""
    _call("delete", _name("claim", key))


def _name(name: CacheName | Literal["claim"], key: str) -> str:
    return f"{name}:{FORMAT}:{key}"


def _call(method: str, *arguments: object) -> bytes | None:
    global _skip_until
    if time.monotonic() < _skip_until:
        raise CacheUnavailableError
    try:
        result: bytes | None = getattr(cache, method)(*arguments)
    except (RedisError, OSError) as error:
        _skip_until = time.monotonic() + RETRY_AFTER_S
        logger.warning("Redis does not answer; queries run without their caches: %s", type(error).__name__)
        raise CacheUnavailableError from error
    return result
