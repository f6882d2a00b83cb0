from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from ops.models import QueryPerformance
from ops.performance import layout
from ops.performance.layout import Layout, adopt, convert, current_layout, plan
from ops.performance.maintenance import bring_up_to_date, maintain
from ops.performance.report import report
from tests.ops.performance.rows import row, write
from tests.ops.performance.test_rollup import WIDTHS, empty_store, expected, view
from tests.patience import PATIENCE_S

START = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)


def some_rows() -> list[Any]:
    return [
        row(
            occurred_at=START + timedelta(hours=7 * n, minutes=n),
            variant=("stable", "canary")[n % 2],
            status=(200, 503)[n % 3 == 0],
            # Away from the borders of the buckets, where two logarithms may round differently.
            timings_ms={"pipeline_ms": 0.1 * 1.1 ** (n + 40.5), **({"embed_ms": 1.03} if n % 2 else {})},
        )
        for n in range(10)
    ]


def all_columns() -> list[dict[str, Any]]:
    return list(QueryPerformance.objects.order_by("id").values())


def shapes() -> dict[str, list[tuple[str, str]]]:
    """Names and types of the columns of the table and its views."""
    with connection.cursor() as cursor:
        cursor.execute(
            """SELECT attrelid::regclass::text, attname, format_type(atttypid, atttypmod)
               FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
                 AND attrelid = ANY (ARRAY['query_performance', 'query_performance_1m', 'query_performance_1h',
                                           'query_performance_1d']::regclass[])
               ORDER BY 1, attnum"""
        )
        found: dict[str, list[tuple[str, str]]] = {}
        for relation, name, kind in cursor.fetchall():
            found.setdefault(relation, []).append((name, kind))
    return found


class TestPlain:
    """What needs no TimescaleDB."""

    @pytest.fixture(autouse=True)
    def _store(self, transactional_db: None) -> Iterator[None]:
        empty_store()
        yield
        empty_store()

    def test_it_is_the_layout_without_timescaledb(self) -> None:
        assert current_layout() is Layout.PARTITIONS
        assert plan("partitions").is_done
        assert convert("partitions") is Layout.PARTITIONS
        assert adopt() is None

    def test_a_table_that_is_made_anew_is_as_the_migrations_make_it_and_keeps_every_row(self) -> None:
        """The way back from TimescaleDB, tried where there is none."""
        rows = some_rows()
        write(rows)
        before, columns = all_columns(), shapes()
        with transaction.atomic():
            layout._exchange(Layout.PARTITIONS, Layout.PARTITIONS)
        assert QueryPerformance.objects.count() == 0
        assert plan("partitions").is_resumed
        assert plan("partitions").moves == 10
        days: list[int] = []
        convert("partitions", lambda day, moved: days.append(moved))
        assert sum(days) == 10
        assert all_columns() == before
        assert shapes() == columns
        write([row(occurred_at=START)])
        assert QueryPerformance.objects.order_by("-id")[0].id > before[-1]["id"]
        bring_up_to_date(START + timedelta(days=4))
        write([row(occurred_at=START)])  # late
        bring_up_to_date(START + timedelta(days=4))
        assert sum(n for n, _, _ in view("1d").values()) == sum(n for n, _, _ in expected("1d", rows).values()) + 2

    def test_a_conversion_that_was_stopped_goes_on(self) -> None:
        write(some_rows())
        with transaction.atomic():
            layout._exchange(Layout.PARTITIONS, Layout.PARTITIONS)

        def stop(day: datetime, rows: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert("partitions", stop)
        assert 0 < QueryPerformance.objects.count() < 10
        out = StringIO()
        call_command("perf", "status", stdout=out)
        assert "manage.py perf convert partitions" in out.getvalue()
        convert("partitions")
        assert QueryPerformance.objects.count() == 10

    def test_the_command_says_what_is_missing(self) -> None:
        if layout.timescale().version:
            pytest.skip("this server has TimescaleDB")
        with pytest.raises(CommandError, match="no TimescaleDB") as refused:
            call_command("perf", "convert", "hypertable")
        assert refused.value.returncode == 2
        out = StringIO()
        call_command("perf", "convert", "partitions", stdout=out)
        assert "nothing to do" in out.getvalue()


@pytest.mark.usefixtures("timescale_database")
class TestTimescale:
    def test_it_converts_there_and_back_and_shows_the_same_figures(self) -> None:
        rows = some_rows()
        write(rows)
        before, columns = all_columns(), shapes()
        out = StringIO()
        call_command("perf", "convert", "hypertable", "--dry-run", stdout=out)
        assert "10 queries" in out.getvalue()
        assert current_layout() is Layout.PARTITIONS

        goal = convert("hypertable")
        assert goal is layout.timescale().layout
        late = row(occurred_at=START + timedelta(minutes=5), timings_ms={"pipeline_ms": 1.03})
        for _ in range(2):
            bring_up_to_date(timezone.now())
            assert shapes() == columns
            assert all_columns()[:10] == before
            for suffix in WIDTHS:
                assert view(suffix) == expected(suffix, rows), suffix
            if late not in rows:
                write([late])
                rows.append(late)
                if goal is Layout.CONTINUOUS:
                    refresh()
        assert report(timedelta(days=4), now=timezone.now()).rows[-1].figures.n == 6
        assert maintain(timezone.now()).dropped == ()
        call_command("perf", "status", stdout=(out := StringIO()))
        assert "hypertable" in out.getvalue()

        assert convert("partitions") is Layout.PARTITIONS
        bring_up_to_date(timezone.now())
        assert all_columns()[:10] == before
        assert shapes() == columns
        for suffix in WIDTHS:
            assert view(suffix) == expected(suffix, rows), suffix

    def test_an_empty_store_takes_it_up_by_itself(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE EXTENSION timescaledb")
        assert adopt() in {Layout.CONTINUOUS, Layout.HYPERTABLE}
        assert adopt() is None
        write(some_rows())
        assert sum(n for n, _, _ in view("1h").values()) == 15

    def test_what_is_past_its_retention_goes(self, settings: Settings) -> None:
        convert("hypertable")
        write(some_rows())
        settings.OPS_PERFORMANCE_RETENTION_DAYS = 2
        maintain(timezone.now())
        if current_layout() is Layout.CONTINUOUS:
            with connection.cursor() as cursor:
                cursor.execute("SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'")
                for (job,) in cursor.fetchall():
                    cursor.execute("CALL run_job(%s)", [job])
        oldest = QueryPerformance.objects.order_by("occurred_at")[0].occurred_at
        assert oldest >= START + timedelta(days=1)

    def test_old_chunks_are_compressed_and_still_read_and_converted(self) -> None:
        if convert("hypertable") is not Layout.CONTINUOUS:
            pytest.skip("this edition compresses nothing")
        rows = some_rows()
        write(rows)
        before = all_columns()
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(compress_chunk(chunk)) FROM show_chunks('query_performance') AS chunk")
            assert cursor.fetchone()[0] >= 3
        assert all_columns() == before
        convert("partitions")
        assert all_columns() == before


def refresh() -> None:
    """What the jobs do in the end; while one of them is at it, a call is refused."""
    for aggregate in ("minutes", "hours", "days"):
        for _ in range(10 * int(PATIENCE_S)):
            try:
                with connection.cursor() as cursor:
                    cursor.execute(f"CALL refresh_continuous_aggregate('query_performance_{aggregate}', NULL, NULL)")
                break
            except OperationalError:
                threading.Event().wait(0.1)
        else:
            raise AssertionError(f"{aggregate} can't be refreshed")
