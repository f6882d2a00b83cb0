"""The feature cache and the response cache, in Redis. Without Redis every lookup is a miss and says so."""

from __future__ import annotations

import logging
import time
from typing import Literal

from django.core.cache import cache
from msgpack.exceptions import UnpackException
from redis.exceptions import RedisError

from ops.contracts.metrics import declare_counter

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""How long a failed Redis is left alone, so that a hanging one costs one time-out a second, not one a request."""

LOOKUPS = declare_counter(
    "zenglow_cache_lookups", "Cache lookups of the query pipeline by their outcome.", ("cache", "outcome")
)


CacheName = Literal["feature", "full"]

FORMAT = 1
"""Part of every key: raise it when the content of an entry changes its shape, so that older entries are not read."""

_skip_until = 0.0


class CacheUnavailableError(Exception):
    """Redis didn't answer; the query is answered without it."""


def get(name: CacheName, key: str) -> bytes | None:
    """What was stored, or ``None``, also when it is damaged. Raises `CacheUnavailableError`."""
    try:
        found: bytes | None = _call("get", _name(name, key))
    except CacheUnavailableError:
        LOOKUPS.labels(name, "unavailable").inc()
        raise
    except (UnpackException, ValueError):
        found = None
    LOOKUPS.labels(name, "miss" if found is None else "hit").inc()
    return found


def put(name: CacheName, key: str, value: bytes, ttl_s: int) -> None:
    """Store for ``ttl_s`` seconds. Raises `CacheUnavailableError`."""
    _call("set", _name(name, key), value, ttl_s)


def _name(name: CacheName, key: str) -> str:
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
