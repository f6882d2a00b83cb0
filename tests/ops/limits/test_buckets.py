"""The buckets themselves, in the real Redis and in memory: the same decisions."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import pytest
import redis
from django_redis import get_redis_connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.limits import buckets
from ops.limits.buckets import Bucket, Limit, LocalBuckets, SharedBuckets
from zenglow_site.embedded.stack import EmbeddedStack

NEVER = 1e-9
"""Tokens a second of a bucket that regains nothing while a test runs."""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["redis", "memory"])
def kept_in(request: pytest.FixtureRequest, embedded_stack: EmbeddedStack) -> SharedBuckets | LocalBuckets:
    local = LocalBuckets()
    return local if request.param == "memory" else SharedBuckets(get_redis_connection("default"), local)


@pytest.fixture
def bucket() -> Iterator[Callable[..., Bucket]]:
    """Makes buckets that no other test knows."""
    made: list[Bucket] = []

    def make(burst: int = 5, per_s: float = NEVER, name: str = "key") -> Bucket:
        made.append(Bucket(Limit(name, burst, per_s), uuid.uuid4().hex))
        return made[-1]

    yield make
    if made:
        get_redis_connection("default").delete(*(bucket.key for bucket in made))


def test_it_grants_the_burst_and_not_one_more(
    kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]
) -> None:
    one = bucket(burst=5)
    verdicts = [kept_in.take([one], 1) for _ in range(7)]
    assert [verdict.is_granted for verdict in verdicts] == [True] * 5 + [False] * 2
    assert [round(verdict.levels[0].left) for verdict in verdicts] == [4, 3, 2, 1, 0, 0, 0]


def test_it_draws_from_every_bucket_or_from_none(
    kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]
) -> None:
    wide, narrow = bucket(burst=10, name="ip"), bucket(burst=2)
    assert kept_in.take([narrow, wide], 2).is_granted
    refused = kept_in.take([narrow, wide], 1)
    assert [level.bucket for level in refused.lacking] == [narrow]
    assert round(kept_in.take([wide], 0).levels[0].left) == 8


def test_a_dear_request_costs_more_and_never_more_than_there_can_be(
    kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]
) -> None:
    one = bucket(burst=5)
    assert kept_in.take([one], 3).is_granted
    assert not kept_in.take([one], 3).is_granted
    assert kept_in.take([one], 2).is_granted
    assert kept_in.take([bucket(burst=5)], 1000).is_granted


def test_looking_takes_nothing(kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]) -> None:
    one = bucket(burst=1)
    assert kept_in.take([one], 0).is_granted
    assert kept_in.take([one], 1).is_granted
    looked = kept_in.take([one], 0)
    assert looked.is_granted
    assert round(looked.levels[0].left) == 0


def test_a_refilled_bucket_is_full(kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]) -> None:
    one = bucket(burst=1)
    kept_in.take([one], 1)
    kept_in.refill([one])
    assert kept_in.take([one], 1).is_granted


def test_what_was_taken_comes_back_at_the_rate(clock: Clock, bucket: Callable[..., Bucket]) -> None:
    kept = LocalBuckets(clock)
    one = bucket(burst=10, per_s=2.0)
    kept.take([one], 10)
    refused = kept.take([one], 3)
    assert (refused.retry_after_s, refused.levels[0].full_in_s) == (2, 5)
    clock.now += 1.5
    assert kept.take([one], 3).is_granted
    clock.now += 1000
    assert kept.take([one], 0).levels[0].left == 10


def test_what_was_taken_from_redis_comes_back_by_its_own_clock(bucket: Callable[..., Bucket]) -> None:
    """So fast that it is full again whenever it is looked at; the key then leaves Redis by itself."""
    shared = SharedBuckets(get_redis_connection("default"), LocalBuckets())
    one = bucket(burst=5, per_s=1e6)
    for _ in range(20):
        assert shared.take([one], 5).is_granted
    slow = bucket(burst=5, per_s=0.5)
    shared.take([slow], 5)
    assert 0 < get_redis_connection("default").pttl(slow.key) <= 10_001


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    burst=st.integers(1, 50),
    per_s=st.integers(1, 512).map(lambda eighths: Fraction(eighths, 8)),
    steps=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12)), max_size=20),
)
def test_it_is_the_token_bucket_of_the_textbook(burst: int, per_s: Fraction, steps: list[tuple[int, int]]) -> None:
    """Against exact fractions; all numbers are eighths and their products, which floats hold without rounding."""
    clock = Clock()
    kept, one = LocalBuckets(clock), Bucket(Limit("key", burst, float(per_s)), "textbook")
    level = Fraction(burst)
    for eighths, cost in steps:
        clock.now += eighths / 8
        level = min(Fraction(burst), level + Fraction(eighths, 8) * per_s)
        wanted = min(cost, burst)
        is_enough = level >= wanted
        level -= wanted if is_enough else 0
        verdict = kept.take([one], cost)
        assert verdict.is_granted == is_enough
        assert verdict.levels[0].left == level


def test_memory_is_bounded(bucket: Callable[..., Bucket]) -> None:
    kept = LocalBuckets(most=3)
    for _ in range(10):
        kept.take([bucket()], 1)
    assert len(kept._drawn) == 3


def test_many_threads_get_exactly_what_there_is(
    kept_in: SharedBuckets | LocalBuckets, bucket: Callable[..., Bucket]
) -> None:
    one, start = bucket(burst=40), threading.Barrier(8)

    def ask() -> int:
        start.wait()
        return sum(kept_in.take([one], 1).is_granted for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        granted = [pool.submit(ask) for _ in range(8)]
    assert sum(one.result() for one in granted) == 40


@pytest.mark.parametrize("stored", [b"", b"x", b"3 1700000000000000", b"\xff" * 15])
def test_a_bucket_that_holds_something_else_counts_as_full(stored: bytes, bucket: Callable[..., Bucket]) -> None:
    one, counted = bucket(burst=3), buckets.UNSHARED._value.get()
    redis = get_redis_connection("default")
    redis.set(one.key, stored)
    shared = SharedBuckets(redis, LocalBuckets())
    assert [shared.take([one], 1).is_granted for _ in range(4)] == [True, True, True, False]
    assert buckets.UNSHARED._value.get() == counted


class TestWithoutRedis:
    @pytest.fixture
    def nowhere(self) -> redis.Redis:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        return redis.Redis(port=port)

    def test_each_process_keeps_the_limit_by_itself(self, nowhere: redis.Redis, bucket: Callable[..., Bucket]) -> None:
        one, counted = bucket(burst=3), buckets.UNSHARED._value.get()
        shared = SharedBuckets(nowhere, LocalBuckets())
        assert [shared.take([one], 1).is_granted for _ in range(5)] == [True, True, True, False, False]
        assert buckets.UNSHARED._value.get() == counted + 5
        shared.refill([one])
        assert shared.take([one], 1).is_granted

    def test_it_is_left_alone_for_a_moment_and_then_used_again(
        self, nowhere: redis.Redis, clock: Clock, bucket: Callable[..., Bucket]
    ) -> None:
        one = bucket(burst=3)
        shared = SharedBuckets(nowhere, LocalBuckets(), clock)
        shared.take([one], 1)
        shared._redis = get_redis_connection("default")
        shared.take([one], 1)  # not asked yet
        clock.now += buckets.REDIS_PAUSE_S
        assert round(shared.take([one], 1).levels[0].left) == 2  # its first in Redis
