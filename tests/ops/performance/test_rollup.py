from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.instrumentation.histogram import BUCKETS, bucket_of
from ops.instrumentation.performance import PerformanceRow
from ops.performance.rollup import roll_up
from tests.ops.performance.rows import row, write
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.django_db

START = datetime(2030, 5, 1, 22, 0, tzinfo=UTC)
WIDTHS = {"1m": timedelta(minutes=1), "1h": timedelta(hours=1), "1d": timedelta(days=1)}


def view(suffix: str) -> dict[tuple[datetime, str, str], tuple[int, int, tuple[int, ...]]]:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT bucket, variant, stage, n, errors, histogram FROM query_performance_{suffix}")
        found = cursor.fetchall()
    keyed = {
        (bucket, variant, stage): (n, errors, tuple(counts)) for bucket, variant, stage, n, errors, counts in found
    }
    assert len(keyed) == len(found), "a bucket is there twice"
    return keyed


def expected(suffix: str, rows: Iterable[PerformanceRow]) -> dict[Any, Any]:
    """The same in plain Python."""
    counts: dict[Any, Counter[int]] = {}
    errors: Counter[Any] = Counter()
    for one in rows:
        width = WIDTHS[suffix]
        bucket = one.occurred_at - (one.occurred_at - datetime(1970, 1, 1, tzinfo=UTC)) % width
        for name, duration_ms in one.timings_ms.items():
            key = (bucket, one.variant, name.removesuffix("_ms"))
            counts.setdefault(key, Counter())[bucket_of(duration_ms)] += 1
            errors[key] += one.status >= 500
    return {
        key: (count.total(), errors[key], tuple(count[bucket] for bucket in range(BUCKETS)))
        for key, count in counts.items()
    }


def rolled_rows() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM query_performance_rollup")
        found: tuple[int] = cursor.fetchone()
    return found[0]


one_row = st.builds(
    lambda minutes, duration_ms, variant, status, embed_ms: row(
        occurred_at=START + timedelta(minutes=minutes),
        variant=variant,
        status=status,
        timings_ms={"pipeline_ms": duration_ms, **({} if embed_ms is None else {"embed_ms": embed_ms})},
    ),
    st.floats(0, 60 * 30),
    # Away from the borders of the buckets, where two logarithms may round differently.
    st.integers(0, BUCKETS - 1).map(lambda bucket: 0.1 * 1.1 ** (bucket + 0.5)),
    st.sampled_from(["stable", "canary"]),
    st.sampled_from([200, 200, 500]),
    st.none() | st.just(3.0),
)


class TestViews:
    @settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
    @given(st.lists(st.tuples(st.lists(one_row, max_size=6), st.integers(-60, 60 * 31)), min_size=1, max_size=4))
    def test_they_show_every_row_once_in_whatever_order_rows_and_roll_ups_come(
        self, batches: list[tuple[list[PerformanceRow], int]]
    ) -> None:
        everything: list[PerformanceRow] = []
        with transaction.atomic():
            for rows, rolled_at_minute in batches:
                write(rows)
                everything += rows
                roll_up(START + timedelta(minutes=rolled_at_minute))
                for suffix in WIDTHS:
                    assert view(suffix) == expected(suffix, everything), suffix
            transaction.set_rollback(True)

    def test_they_are_empty_without_rows(self) -> None:
        roll_up(START)
        assert [view(suffix) for suffix in WIDTHS] == [{}, {}, {}]


class TestRollUp:
    def test_it_leaves_the_last_minute_to_be_counted_live(self) -> None:
        write([row(occurred_at=START), row(occurred_at=START + timedelta(minutes=1))])
        assert roll_up(START + timedelta(minutes=2, seconds=30)) == START + timedelta(minutes=1)
        assert rolled_rows() == 1
        assert len(view("1m")) == 2

    def test_it_makes_up_for_days_that_were_missed(self) -> None:
        rows = [row(occurred_at=START + timedelta(days=day)) for day in (0, 1, 9)]
        write(rows)
        roll_up(START + timedelta(days=10))
        assert rolled_rows() == 9
        assert view("1d") == expected("1d", rows)

    def test_it_closes_an_hour_whose_last_minutes_held_nothing(self) -> None:
        write([row(occurred_at=START)])
        roll_up(START + timedelta(minutes=2))
        roll_up(START + timedelta(minutes=61))
        assert view("1h")[START, "stable", "pipeline"][0] == 1

    def test_it_counts_again_only_what_late_rows_changed(self) -> None:
        write([row(occurred_at=START + timedelta(minutes=minute)) for minute in range(3)])
        roll_up(START + timedelta(hours=3))
        write([row(occurred_at=START + timedelta(minutes=1, seconds=5))])
        with connection.cursor() as cursor:
            cursor.execute("SELECT minute FROM query_performance_late")
            assert cursor.fetchall() == [(START + timedelta(minutes=1),)]
        roll_up(START + timedelta(hours=3))
        assert view("1m")[START + timedelta(minutes=1), "stable", "pipeline"][0] == 2
        assert view("1h")[START, "stable", "pipeline"][0] == 4

    def test_it_may_run_twice(self) -> None:
        write([row(occurred_at=START)])
        assert roll_up(START + timedelta(hours=1)) == roll_up(START + timedelta(hours=1))
        assert view("1m")[START, "stable", "pipeline"][0] == 1


@pytest.fixture
def _an_empty_store(transactional_db: None) -> Iterator[None]:
    """A test with transactions of its own leaves what it wrote: the table isn't one of those that Django empties."""
    empty_store()
    yield
    empty_store()


def empty_store() -> None:
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE query_performance, query_performance_rollup, query_performance_late")
        cursor.execute("UPDATE query_performance_rolled SET watermark = '-infinity', horizon = '-infinity'")


@pytest.mark.usefixtures("_an_empty_store")
def test_it_loses_no_row_of_a_writer_that_commits_after_the_roll_up_began() -> None:
    """The writer has its row before the horizon moves, and commits it afterwards."""
    written, may_commit = threading.Event(), threading.Event()

    def write_slowly() -> None:
        with transaction.atomic():
            write([row(occurred_at=START)])
            written.set()
            may_commit.wait(PATIENCE_S)
        connection.close()

    def roll() -> None:
        roll_up(START + timedelta(hours=1))
        connection.close()

    writer, roller = threading.Thread(target=write_slowly), threading.Thread(target=roll)
    writer.start()
    assert written.wait(PATIENCE_S)
    roller.start()
    wait_until_a_lock_is_awaited()
    may_commit.set()
    writer.join(PATIENCE_S)
    roller.join(PATIENCE_S)
    assert view("1m")[START, "stable", "pipeline"][0] == 1
    assert rolled_rows() == 1


def wait_until_a_lock_is_awaited() -> None:
    for _ in range(10 * int(PATIENCE_S)):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            if cursor.fetchone()[0]:
                return
        threading.Event().wait(0.1)
    raise AssertionError("nobody waits")
