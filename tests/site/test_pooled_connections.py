"""Connections of the pool that are borrowed for a moment, beside those that requests have for themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from django.db import connections

from tests.patience import PATIENCE_S, eventually
from zenglow_site.postgresql.base import DatabaseWrapper

pytestmark = pytest.mark.django_db(transaction=True)

Make = Callable[[], DatabaseWrapper]


@pytest.fixture
def pooled() -> Iterator[Callable[[int], Make]]:
    """Wrappers of the test database, each for a thread of its own, that share a pool of so many connections."""
    made: list[DatabaseWrapper] = []

    def sharing(size: int) -> Make:
        def make() -> DatabaseWrapper:
            wrapper = connections["default"].copy("pooled")
            assert isinstance(wrapper, DatabaseWrapper)
            pool = {"min_size": 1, "max_size": size, "timeout": PATIENCE_S}
            wrapper.settings_dict = {
                **wrapper.settings_dict,
                "CONN_MAX_AGE": 0,
                "OPTIONS": {**wrapper.settings_dict["OPTIONS"], "pool": pool},
            }
            made.append(wrapper)
            return wrapper

        return make

    yield sharing
    made[0].close_pool()


def of_a_request(wrapper: DatabaseWrapper) -> Any:
    """A connection as Django takes it for a request."""
    return wrapper.get_new_connection(wrapper.get_connection_params())


def backend(connection: Any) -> int:
    number: int = connection.info.backend_pid
    return number


def test_who_borrows_again_gets_the_same(pooled: Callable[[int], Make]) -> None:
    wrapper = pooled(4)()
    first = wrapper.borrow()
    wrapper.give_back(first)
    assert wrapper.borrow() is first
    second = wrapper.borrow()
    assert second is not first
    wrapper.give_back(second)
    wrapper.give_back(first)
    assert first.execute("SELECT 1").fetchone() == (1,)


def test_what_is_kept_at_hand_is_missing_to_nobody(pooled: Callable[[int], Make]) -> None:
    """With a single connection: whoever asks the pool gets it, although it does not lie there."""
    make = pooled(1)
    borrower, requester = make(), make()
    connection = borrower.borrow()
    borrower.give_back(connection)
    assert of_a_request(requester) is connection
    requester.pool.putconn(connection)


def test_who_waits_at_the_pool_gets_what_is_given_back(pooled: Callable[[int], Make]) -> None:
    make = pooled(1)
    borrower, requester = make(), make()
    connection = borrower.borrow()
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(of_a_request(requester)))
    waiting.start()
    eventually(lambda: borrower.pool.get_stats()["requests_waiting"] == 1)
    borrower.give_back(connection)
    waiting.join(PATIENCE_S)
    assert found == [connection]
    requester.pool.putconn(connection)


def test_one_whose_server_has_hung_up_is_not_handed_out(pooled: Callable[[int], Make]) -> None:
    wrapper = pooled(2)()
    connection = wrapper.borrow()
    wrapper.give_back(connection)
    with connections["default"].cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [backend(connection)])
    another = wrapper.borrow()
    assert another is not connection
    assert another.execute("SELECT 1").fetchone() == (1,)
    wrapper.give_back(another)


def test_one_that_is_within_a_transaction_goes_back_to_the_pool(pooled: Callable[[int], Make]) -> None:
    wrapper = pooled(2)()
    connection = wrapper.borrow()
    connection.autocommit = False
    connection.execute("SELECT 1")
    wrapper.give_back(connection)
    again = wrapper.borrow()
    assert again.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    wrapper.give_back(again)


def test_with_the_pool_what_is_kept_of_it_is_closed(pooled: Callable[[int], Make]) -> None:
    wrapper = pooled(2)()
    kept = wrapper.borrow()
    wrapper.give_back(kept)
    wrapper.close_pool()
    assert kept.closed
    late = wrapper.borrow()
    wrapper.close_pool()
    another = wrapper.borrow()
    wrapper.give_back(late)
    assert late.closed
    wrapper.give_back(another)
    assert wrapper.borrow() is another
    wrapper.give_back(another)


def test_no_two_have_the_same_at_once(pooled: Callable[[int], Make]) -> None:
    make = pooled(3)
    taken: set[int] = set()
    lock = threading.Lock()

    def borrow_often(wrapper: DatabaseWrapper) -> int:
        seen = 0
        for number in range(200):
            if number % 10 == 9:
                wrapper.pool.putconn(of_a_request(wrapper))
            connection = wrapper.borrow()
            with lock:
                assert backend(connection) not in taken
                taken.add(backend(connection))
            seen += connection.execute("SELECT 1").fetchone()[0]
            with lock:
                taken.remove(backend(connection))
            wrapper.give_back(connection)
        return seen

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(borrow_often, [make() for _ in range(8)])) == 8 * 200
