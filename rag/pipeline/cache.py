"""The feature cache and the response cache, in Redis. Without Redis every lookup is a miss and says so.

Answers that this process had lately are held in its memory as well: `rag.pipeline.answer_memory`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from hashlib import sha1
from typing import Any, Literal, NamedTuple, cast

from django.conf import settings
from redis.exceptions import NoScriptError, RedisError

from ops import redis_line
from ops.contracts.metrics import declare_counter
from ops.instrumentation.snapshot import SNAPSHOT
from ops.redis_line import Command
from rag.pipeline.answer_memory import memory as answer_memory

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""How long a failed Redis is left alone, so that a hanging one costs one time-out a second, not one a request."""

LOOKUPS = declare_counter(
    "zenglow_cache_lookups",
    "Cache lookups of the query pipeline by their outcome, and why.",
    ("cache", "outcome", "reason"),
)

CacheName = Literal["feature", "full"]

FORMAT = 4
"""Part of every key: raise it when the content of an entry changes its shape, so that older entries are not read."""

_MARK = b"zenglow\0"
"""Begins every entry: what begins otherwise is not ours."""

DAMAGED = b""
"""Stands for what is stored but can't be read; no entry is empty."""

_skip_until = 0.0

# One round trip: the answer, and for how many milliseconds it is kept; else the claim to compute it, and what is known
# before fusion.
_LOOK_UP = """
local full = redis.call('GET', KEYS[1])
if full then return {full, redis.call('PTTL', KEYS[1])} end
local claimed = redis.call('SET', KEYS[2], '1', 'NX', 'PX', ARGV[1])
return {false, claimed and 1 or 0, KEYS[3] and redis.call('GET', KEYS[3]) or false}
"""
_LOOK_UP_SHA = sha1(_LOOK_UP.encode(), usedforsecurity=False).hexdigest()


class Entry(NamedTuple):
    """Something to be kept."""

    name: CacheName
    key: str
    value: bytes
    ttl_s: int


class Found(NamedTuple):
    """What `ask` found: `DAMAGED` stands for what can't be read. ``claimed`` says, where there is no answer,
    whether the caller is now the one to compute it, and is ``None`` where nobody claimed it. ``in_memory``: of this
    process.
    """

    full: bytes | None
    claimed: bool | None = None
    feature: bytes | None = None
    in_memory: bool = False


class CacheUnavailableError(Exception):
    """Redis didn't answer; the query is answered without it."""


def ask(full_key: str, feature_key: str | None, claim_s: float) -> Callable[[], Found]:
    """The answer from this process's memory, or have Redis look for it; else for what was computed before fusion, and
    claim to compute it, which ends after ``claim_s``. What is given waits for Redis, and is called once, before
    anything else is asked of the cache.

    Without ``feature_key`` the feature cache is not asked. Nothing is counted. Both raise `CacheUnavailableError`.
    """
    held = answer_memory.recall(full_key)
    if held is not None:
        return lambda: Found(held, in_memory=True)
    keys = [_name("full", full_key), _name("claim", full_key)]
    if feature_key is not None:
        keys.append(_name("feature", feature_key))
    claim_ms = round(claim_s * 1000)
    answers = _call(lambda: _begun(("EVALSHA", _LOOK_UP_SHA, len(keys), *keys, claim_ms)))

    def reply() -> list[Any]:
        try:
            (found,) = answers()
        except NoScriptError:  # a Redis that was started since
            (found,) = _asked(("EVAL", _LOOK_UP, len(keys), *keys, claim_ms))
        return cast(list[Any], found)

    def found() -> Found:
        stored, *rest = _heard(reply)  # it was asked already: what it says is not thrown away
        full = _decoded(stored)
        if full is None:
            return Found(None, bool(rest[0]), _decoded(rest[1]))
        if full != DAMAGED:
            _hold(full_key, full, rest[0] / 1000)
        return Found(full)

    return found


def get(name: CacheName, key: str, why_missed: Callable[[], str] = lambda: "cold") -> bytes | None:
    """What was stored, or ``None``, also when it is damaged. Raises `CacheUnavailableError`.

    A miss is counted under what ``why_missed`` returns.
    """
    try:
        found = _read(name, key)
    except CacheUnavailableError:
        count(name, "miss", "unavailable")
        raise
    return counted(name, found, why_missed)


def counted(
    name: CacheName, found: bytes | None, why_missed: Callable[[], str], *, in_memory: bool = False
) -> bytes | None:
    """What a look-up found, counted; ``None`` when it is damaged."""
    if found is None:
        count(name, "miss", why_missed())
    elif found == DAMAGED:
        count(name, "miss", "damaged")
        return None
    else:
        count(name, "hit", "memory" if in_memory else "stored")
    return found


def count(name: CacheName, outcome: Literal["hit", "miss"], reason: str) -> None:
    """Count a lookup for ``/metrics`` and ``/metrics/json``."""
    LOOKUPS.labels(name, outcome, reason).inc()
    SNAPSHOT.add_cache_lookup(name, outcome, reason)


def peek(name: CacheName, key: str) -> bytes | None:
    """As `get`, uncounted: for somebody who waits for the entry."""
    return _read(name, key) or None


def put(*entries: Entry) -> None:
    """Store in one round trip. Raises `CacheUnavailableError`."""

    commands: list[Command] = [
        ("SET", _name(entry.name, entry.key), _MARK + entry.value, "EX", entry.ttl_s) for entry in entries
    ]
    _call(lambda: _asked(*commands))
    for entry in entries:
        if entry.name == "full":
            _hold(entry.key, entry.value, entry.ttl_s)


def claim(key: str, for_s: float) -> bool:
    """Whether this process is to compute the answer of ``key``: nobody else claims it now. It ends after ``for_s``.

    Raises `CacheUnavailableError`.
    """
    name = _name("claim", key)
    (claimed,) = _call(lambda: _asked(("SET", name, 1, "NX", "PX", round(for_s * 1000))))
    return bool(claimed)


def disclaim(key: str) -> None:
    """End a claim early. Raises `CacheUnavailableError`."""
    name = _name("claim", key)
    _call(lambda: _asked(("DEL", name)))


def _hold(full_key: str, answer: bytes, for_s: float) -> None:
    answer_memory.keep(full_key, answer, for_s, settings.RAG_RESPONSE_MEMORY_MB * 2**20)


def _name(name: CacheName | Literal["claim"], key: str) -> str:
    return redis_line.key(f"{name}:{FORMAT}:{key}")


def _read(name: CacheName, key: str) -> bytes | None:
    stored = _name(name, key)
    (value,) = _call(lambda: _asked(("GET", stored)))
    return _decoded(value)


def _decoded(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    return value[len(_MARK) :] if value.startswith(_MARK) and len(value) > len(_MARK) else DAMAGED


def _asked(*commands: Command) -> list[Any]:
    return _begun(*commands)()


def _begun(*commands: Command) -> Callable[[], list[Any]]:
    return redis_line.begin(redis_line.shared_client(), *commands)


def _call(ask: Callable[[], Any]) -> Any:
    if time.monotonic() < _skip_until:
        raise CacheUnavailableError
    return _heard(ask)


def _heard(ask: Callable[[], Any]) -> Any:
    """What Redis says; after a fault it is left alone for a while."""
    global _skip_until
    try:
        return ask()
    except (RedisError, OSError) as error:
        _skip_until = time.monotonic() + RETRY_AFTER_S
        logger.warning("Redis does not answer; queries run without their caches: %s", type(error).__name__)
        raise CacheUnavailableError from error
