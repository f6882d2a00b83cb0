"""Token buckets that all processes share: one atomic script in Redis, on Redis' own clock.

A bucket holds at most ``burst`` tokens and gains ``per_s`` of them each second. Taking draws the same number from
several buckets at once, from all or from none. What is stored of a bucket is its tokens and the time of the last draw;
a full one is no key at all.

While Redis can't be reached, each process keeps the same limits by itself, in memory: a caller then gets at most as
many times the limit as there are processes. Limits neither vanish with Redis nor close the server.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha1
from struct import unpack
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from ops import redis_line
from ops.contracts.metrics import declare_counter

logger = logging.getLogger(__name__)

LOCAL_BUCKETS = 20_000
"""Most buckets of one process while Redis is away; beyond them the one that was used longest ago counts as full."""
REDIS_PAUSE_S = 1.0
"""How long Redis is left alone after it failed, so that a silent one costs one time-out a second, not one a request."""

UNSHARED = declare_counter(
    "zenglow_rate_limit_unshared", "Decisions made by one process alone, as Redis could not be reached."
)

# KEYS: the buckets. ARGV: the tokens to take, then burst and per_s of each bucket.
# Returns {1 or 0, tokens left in each as doubles}; takes nothing unless every bucket holds enough. Below 0: gives back.
# A bucket that holds anything else counts as full, and is written anew.
TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wanted = tonumber(ARGV[1])
local kept = redis.call('MGET', unpack(KEYS))
local left, enough = {}, 1
for i = 1, #KEYS do
  local burst, per_s = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
  left[i] = burst
  if kept[i] and #kept[i] == 16 then
    local had, at = struct.unpack('<dd', kept[i])
    left[i] = math.min(burst, had + math.max(0, now - at) / 1000000 * per_s)
  end
  if left[i] < math.min(wanted, burst) then enough = 0 end
end
if enough == 1 and wanted ~= 0 then
  for i, key in ipairs(KEYS) do
    local burst, per_s = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    left[i] = math.min(burst, left[i] - math.min(wanted, burst))
    local full_in_ms = math.ceil((burst - left[i]) / per_s * 1000) + 1
    redis.call('SET', key, struct.pack('<dd', left[i], now), 'PX', string.format('%.0f', full_in_ms))
  end
end
return {enough, struct.pack('<' .. string.rep('d', #left), unpack(left))}
"""
TAKE_SHA = sha1(TAKE.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Limit:
    """``per_s`` tokens a second, ``burst`` at once; both above 0. ``name`` is the policy's, as callers see it."""

    name: str
    burst: int
    per_s: float

    @property
    def window_s(self) -> int:
        """Seconds in which an empty bucket fills up."""
        return math.ceil(self.burst / self.per_s)


@dataclass(frozen=True, slots=True)
class Bucket:
    """The tokens of one holder: ``holder`` is a key's prefix, a user's id, an address."""

    limit: Limit
    holder: str

    @property
    def key(self) -> str:
        return redis_line.key(f"bucket:{self.limit.name}:{self.holder}")


@dataclass(frozen=True, slots=True)
class Level:
    """What a bucket holds after a decision, in tokens."""

    bucket: Bucket
    left: float

    @property
    def full_in_s(self) -> int:
        """Whole seconds until it is full again, rounded up."""
        return math.ceil((self.bucket.limit.burst - self.left) / self.bucket.limit.per_s)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the tokens were taken, and from what is left when it makes sense to come back."""

    is_granted: bool
    levels: tuple[Level, ...]
    cost: float

    @property
    def lacking(self) -> tuple[Level, ...]:
        """The buckets that did not hold enough; none when it was granted."""
        if self.is_granted:
            return ()
        return tuple(level for level in self.levels if level.left < min(self.cost, level.bucket.limit.burst))

    @property
    def retry_after_s(self) -> int:
        """Seconds, at least 1, until every bucket holds enough if nobody else takes from it; 0 when granted."""
        waits = [
            (min(self.cost, level.bucket.limit.burst) - level.left) / level.bucket.limit.per_s for level in self.lacking
        ]
        return max(1, math.ceil(max(waits))) if waits else 0


def take(buckets: Sequence[Bucket], cost: float = 1.0) -> Verdict:
    """Take ``cost`` tokens from every bucket, or from none. A cost above a bucket's burst is all that it can hold.

    A cost of 0 only looks. Never raises for a Redis that is away.
    """
    if not buckets:
        return Verdict(True, (), cost)
    return _shared().take(buckets, cost)


def give_back(buckets: Sequence[Bucket], cost: float = 1.0) -> None:
    """Undo a `take` of as many tokens; no bucket gets fuller than full."""
    take(buckets, -cost)


def refill(buckets: Sequence[Bucket]) -> None:
    """Forget what was taken from the buckets."""
    _shared().refill(buckets)


class LocalBuckets:
    """The same arithmetic in this process's memory; ``clock`` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = LOCAL_BUCKETS) -> None:
        self._clock = clock
        self._most = most
        self._lock = threading.Lock()
        self._drawn: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens left, and when

    def take(self, buckets: Sequence[Bucket], cost: float) -> Verdict:
        with self._lock:
            now = self._clock()
            left = [self._left(bucket, now) for bucket in buckets]
            wanted = [min(cost, bucket.limit.burst) for bucket in buckets]
            is_granted = all(have >= want for have, want in zip(left, wanted, strict=True))
            if is_granted and cost != 0:
                left = [
                    min(bucket.limit.burst, have - want)
                    for bucket, have, want in zip(buckets, left, wanted, strict=True)
                ]
                for bucket, have in zip(buckets, left, strict=True):
                    self._drawn[bucket.key] = (have, now)
                    self._drawn.move_to_end(bucket.key)
                while len(self._drawn) > self._most:
                    self._drawn.popitem(last=False)
        return Verdict(is_granted, tuple(map(Level, buckets, left)), cost)

    def refill(self, buckets: Sequence[Bucket]) -> None:
        with self._lock:
            for bucket in buckets:
                self._drawn.pop(bucket.key, None)

    def _left(self, bucket: Bucket, now: float) -> float:
        drawn = self._drawn.get(bucket.key)
        burst = float(bucket.limit.burst)
        return burst if drawn is None else min(burst, drawn[0] + max(0.0, now - drawn[1]) * bucket.limit.per_s)


class SharedBuckets:
    """Buckets in Redis, and in this process's memory for as long as Redis is away."""

    def __init__(self, redis: Any, local: LocalBuckets, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._local = local
        self._clock = clock
        self._skip_until = -math.inf

    def take(self, buckets: Sequence[Bucket], cost: float) -> Verdict:
        if self._clock() >= self._skip_until:
            try:
                granted, left = self._taken(buckets, cost)
            except (RedisError, OSError) as error:
                self._pause(error)
            else:
                return Verdict(bool(granted), tuple(map(Level, buckets, unpack(f"<{len(buckets)}d", left))), cost)
        UNSHARED.inc()
        return self._local.take(buckets, cost)

    def refill(self, buckets: Sequence[Bucket]) -> None:
        self._local.refill(buckets)
        if self._clock() >= self._skip_until:
            try:
                self._redis.delete(*(bucket.key for bucket in buckets))
            except RedisError as error:
                self._pause(error)

    def _taken(self, buckets: Sequence[Bucket], cost: float) -> list[Any]:
        arguments: list[str | float] = [len(buckets), *(bucket.key for bucket in buckets), cost]
        for bucket in buckets:
            arguments += [bucket.limit.burst, bucket.limit.per_s]
        try:
            (answer,) = redis_line.begin(self._redis, ("EVALSHA", TAKE_SHA, *arguments))()
        except NoScriptError:  # a Redis that was started since
            (answer,) = redis_line.begin(self._redis, ("EVAL", TAKE, *arguments))()
        return list(answer)

    def _pause(self, error: RedisError | OSError) -> None:
        self._skip_until = self._clock() + REDIS_PAUSE_S
        logger.warning("Limits are kept by each process alone, as Redis fails: %s", type(error).__name__)


@lru_cache(maxsize=1)
def _shared() -> SharedBuckets:
    return SharedBuckets(redis_line.shared_client(), LocalBuckets())
