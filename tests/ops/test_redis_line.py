"""A thread's own connection to Redis: what becomes of it when something goes wrong."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.exceptions import ConnectionError as NoConnectionError
from redis.exceptions import ResponseError

from ops.redis_line import Command, begin
from tests.embedded.support import temporary_place
from tests.patience import eventually
from zenglow_site.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    with temporary_place() as place:
        own = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
        own.ensure()
        yield own
        own.stop()


@pytest.fixture
def client(server: EmbeddedRedis) -> redis.Redis:
    return redis.Redis.from_url(server.url(0), socket_timeout=0.3)


def names(server: EmbeddedRedis) -> list[int]:
    """The ids by which Redis knows who is connected, but for who asks that."""
    with redis.Redis.from_url(server.url(0), single_connection_client=True) as client:
        own = client.client_id()
        return sorted(int(one["id"]) for one in client.client_list() if int(one["id"]) != own)


def exchange(client: redis.Redis, *commands: Command) -> list[Any]:
    return begin(client, *commands)()


def identity(client: redis.Redis) -> Any:
    (found,) = exchange(client, ("CLIENT", "ID"))
    return found


def test_a_thread_keeps_its_connection_and_shares_it_with_none(client: redis.Redis) -> None:
    assert exchange(client, ("SET", "a", b"\x00\xff"), ("GET", "a")) == [b"OK", b"\x00\xff"]
    mine = identity(client)
    assert identity(client) == mine
    others: list[Any] = []
    thread = threading.Thread(target=lambda: others.append(identity(client)))
    thread.start()
    thread.join()
    assert others[0] != mine


def test_the_connection_of_a_thread_that_has_ended_is_closed(client: redis.Redis, server: EmbeddedRedis) -> None:
    others: list[int] = []
    thread = threading.Thread(target=lambda: others.append(identity(client)))
    thread.start()
    thread.join()
    eventually(lambda: others[0] not in names(server))


def test_a_connection_that_redis_has_closed_is_made_anew(client: redis.Redis, server: EmbeddedRedis) -> None:
    mine = identity(client)
    with redis.Redis.from_url(server.url(0)) as other:
        other.client_kill_filter(_id=mine)
    assert identity(client) != mine


def test_an_error_among_answers_leaves_none_for_the_next_to_take(client: redis.Redis) -> None:
    mine = identity(client)
    with pytest.raises(ResponseError):
        exchange(client, ("SET", "text", "x"), ("INCR", "text"), ("GET", "text"))
    assert exchange(client, ("ECHO", "next")) == [b"next"]
    assert identity(client) == mine


def test_an_answer_that_comes_too_late_is_taken_for_no_other(client: redis.Redis) -> None:
    mine = identity(client)
    with pytest.raises(redis.TimeoutError):
        exchange(client, ("BLPOP", "nobody-fills-it", 1))
    assert exchange(client, ("ECHO", "next")) == [b"next"]
    assert identity(client) != mine


def test_redis_works_while_the_caller_does_something_else(client: redis.Redis) -> None:
    mine = identity(client)
    answers = begin(client, ("SET", "b", "1"), ("GET", "b"))
    eventually(lambda: client.get("b") == b"1")
    assert answers() == [b"OK", b"1"]
    assert identity(client) == mine


def test_answers_that_nobody_waited_for_are_taken_for_no_others(client: redis.Redis) -> None:
    mine = identity(client)
    begin(client, ("ECHO", "unwanted"))
    assert exchange(client, ("ECHO", "next")) == [b"next"]
    assert identity(client) != mine


def test_without_redis_it_says_so_and_goes_on_when_it_is_back() -> None:
    with temporary_place() as place:
        own = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
        own.ensure()
        client = redis.Redis.from_url(own.url(0), socket_timeout=0.3)
        assert exchange(client, ("ECHO", "before")) == [b"before"]
        own.stop()
        with pytest.raises(NoConnectionError):
            exchange(client, ("ECHO", "meanwhile"))
        read, write = os.pipe()  # which may take the number that the connection's file had
        with pytest.raises(NoConnectionError):
            exchange(client, ("ECHO", "meanwhile"))
        own.ensure()
        assert exchange(client, ("ECHO", "after")) == [b"after"]
        own.stop()
        own.ensure()
        assert exchange(client, ("ECHO", "after another end")) == [b"after another end"]
        os.close(read)
        os.close(write)
        own.stop()


def test_a_process_that_was_forked_takes_a_connection_of_its_own(client: redis.Redis) -> None:
    mine = identity(client)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, str(identity(client)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = int(os.read(read, 100))
    os.close(read)
    os.close(write)
    assert theirs != mine
    assert identity(client) == mine
