from __future__ import annotations

import gc
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import DataError, OperationalError, connection
from django.utils import timezone
from pytest_django.fixtures import Settings

from ops.instrumentation import performance
from ops.instrumentation.batch import BatchWriter
from ops.instrumentation.histogram import RELATIVE_ERROR
from ops.instrumentation.performance import PerformanceRow, performance_writer, record_query, unfinished
from ops.instrumentation.snapshot import SNAPSHOT
from ops.models import QueryPerformance
from ops.performance.maintenance import maintain
from ops.performance.partitions import drop_before, ensure_partitions

pytestmark = pytest.mark.django_db

COLUMNS = [
    *("occurred_at", "id", "request_id", "query_hmac", "collection", "variant", "mode", "cache", "status", "degraded"),
    *("result_count", "top_score", "embed_ms", "retrieval_ms", "feature_ms", "ltr_ms", "fusion_ms", "pipeline_ms"),
    *("generation_ms", "stt_ms", "tts_ms", "weights_version", "ltr_version", "embedder_version", "key_prefix"),
]


@pytest.fixture(autouse=True)
def _own_writer() -> Iterator[None]:
    """A writer that nothing is left in, and that writes when it is told to."""
    performance_writer.cache_clear()
    performance_writer().hold()
    yield
    performance_writer.cache_clear()


def row(**changes: Any) -> PerformanceRow:
    return PerformanceRow(
        **(
            {
                "occurred_at": timezone.now(),
                "request_id": uuid.uuid4(),
                "query_hmac": "ab" * 32,
                "collection": "docs",
                "variant": "stable",
                "mode": "pgvector",
                "cache": "none",
                "status": 200,
                "degraded": ["cache", 'odd "name", with\ttab'],
                "result_count": 10,
                "top_score": 0.5,
                "timings_ms": {"embed_ms": 1.5, "pipeline_ms": 12.0},
                "weights_version": 3,
                "ltr_version": "default@4",
                "embedder_version": "minilm@1",
                "key_prefix": None,
            }
            | changes
        )
    )


def partition_of(one: PerformanceRow) -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableoid::regclass::text FROM query_performance WHERE request_id = %s", [one.request_id])
        found: tuple[str] = cursor.fetchone()
    return found[0]


class TestTable:
    def test_it_has_exactly_the_columns_that_others_rely_on(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM query_performance LIMIT 0")
            assert [column.name for column in cursor.description] == COLUMNS
        assert {field.column for field in QueryPerformance._meta.get_fields()} == set(COLUMNS)  # type: ignore[union-attr]

    def test_it_stores_a_row_as_it_was_recorded(self) -> None:
        one = row()
        record_query(one)
        assert performance_writer().flush() == 1
        stored = QueryPerformance.objects.get(request_id=one.request_id)
        assert stored.occurred_at == one.occurred_at
        assert stored.degraded == one.degraded
        assert (stored.embed_ms, stored.ltr_ms, stored.pipeline_ms) == (1.5, None, 12.0)
        assert (stored.weights_version, stored.ltr_version, stored.key_prefix) == (3, "default@4", None)

    def test_it_feeds_the_other_sinks_too(self) -> None:
        before = SNAPSHOT.cache_hits()["feature"]
        record_query(row(cache="feature"))
        assert SNAPSHOT.cache_hits()["feature"] == before + 1


class TestPartitions:
    def test_it_sorts_rows_into_their_utc_day(self) -> None:
        late = row(occurred_at=datetime(2030, 5, 1, 23, 59, 59, 999999, tzinfo=UTC))
        early = row(occurred_at=datetime(2030, 5, 2, tzinfo=UTC))
        assert ensure_partitions(date(2030, 5, 1), date(2030, 5, 2)) == 2
        record_query(late)
        record_query(early)
        performance_writer().flush()
        assert partition_of(late) == "query_performance_p20300501"
        assert partition_of(early) == "query_performance_p20300502"

    def test_it_refuses_no_row_and_moves_it_once_its_day_has_a_partition(self) -> None:
        one, other = (row(occurred_at=datetime(2031, 1, day, 12, tzinfo=UTC)) for day in (1, 2))
        record_query(one)
        record_query(other)
        performance_writer().flush()
        before = QueryPerformance.objects.get(request_id=one.request_id).id
        assert partition_of(one) == "query_performance_default"
        assert ensure_partitions(date(2031, 1, 1), date(2031, 1, 1)) == 1
        assert partition_of(one) == "query_performance_p20310101"
        assert partition_of(other) == "query_performance_default"
        assert QueryPerformance.objects.get(request_id=one.request_id).id == before
        assert ensure_partitions(date(2031, 1, 1), date(2031, 1, 1)) == 0

    def test_it_gives_rows_distinct_ids_over_all_partitions(self) -> None:
        ensure_partitions(date(2030, 5, 1), date(2030, 5, 3))
        for day in (1, 2, 3, 4):
            record_query(row(occurred_at=datetime(2030, 5, day, tzinfo=UTC)))
        performance_writer().flush()
        ids = list(QueryPerformance.objects.values_list("id", flat=True))
        assert len(ids) == len(set(ids)) == 4

    def test_it_drops_whole_days_and_what_waits_in_the_default_partition(self) -> None:
        ensure_partitions(date(2001, 1, 1), date(2001, 1, 2))
        for day in (1, 2):
            record_query(row(occurred_at=datetime(2001, 1, day, tzinfo=UTC)))
        record_query(row(occurred_at=datetime(2000, 6, 1, tzinfo=UTC)))
        performance_writer().flush()
        assert drop_before(date(2001, 1, 2)) == ("query_performance_p20010101",)
        assert [one.occurred_at.day for one in QueryPerformance.objects.all()] == [2]

    def test_it_keeps_a_week_ahead_and_the_retention_behind(self, settings: Settings) -> None:
        settings.OPS_PERFORMANCE_RETENTION_DAYS = 2
        now = datetime(2032, 3, 10, 1, tzinfo=UTC)
        ensure_partitions(date(2032, 3, 7), date(2032, 3, 8))
        first = maintain(now)
        assert first.made == 9
        assert "query_performance_p20320307" in first.dropped
        assert "query_performance_p20320308" not in first.dropped
        again = maintain(now + timedelta(hours=1))
        assert (again.made, again.dropped) == (0, ())


class TestViews:
    @pytest.mark.parametrize(("suffix", "buckets"), [("1m", 3), ("1h", 2), ("1d", 1)])
    def test_they_hold_histograms_that_add_up(self, suffix: str, buckets: int) -> None:
        start = datetime(2030, 5, 1, 10, 0, tzinfo=UTC)
        latencies = [float(n) for n in range(1, 101)]
        for position, latency in enumerate(latencies):
            minute = (0, 1, 70)[position % 3]
            record_query(
                row(
                    occurred_at=start + timedelta(minutes=minute, seconds=position % 60),
                    status=500 if position < 5 else 200,
                    timings_ms={"pipeline_ms": latency},
                )
            )
        performance_writer().flush()
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM query_performance_{suffix}")
            assert [column.name for column in cursor.description] == [
                *("bucket", "variant", "stage", "n", "errors", "histogram")
            ]
            assert {(found[1], found[2]) for found in cursor.fetchall()} == {("stable", "pipeline")}
            cursor.execute(
                f"""SELECT count(*), sum(n), sum(errors), latency_percentile(latency_histogram_sum(histogram), 0.5),
                           latency_percentile(latency_histogram_sum(histogram), 0.95)
                    FROM query_performance_{suffix}"""
            )
            n_buckets, n, errors, p50, p95 = cursor.fetchone()
        assert (n_buckets, n, errors) == (buckets, 100, 5)
        assert p50 == pytest.approx(50, rel=RELATIVE_ERROR)
        assert p95 == pytest.approx(95, rel=RELATIVE_ERROR)

    def test_they_keep_stages_and_variants_apart(self) -> None:
        record_query(row(variant="canary", timings_ms={"embed_ms": 2.0, "ltr_ms": 4.0}))
        record_query(row(variant="stable", timings_ms={"embed_ms": 8.0}))
        performance_writer().flush()
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT variant, stage, latency_percentile(histogram, 0.5) FROM query_performance_1d ORDER BY 1, 2"
            )
            found = cursor.fetchall()
        assert [(variant, stage) for variant, stage, _ in found] == [
            ("canary", "embed"),
            ("canary", "ltr"),
            ("stable", "embed"),
        ]
        assert [figure for _, _, figure in found] == pytest.approx([2.0, 4.0, 8.0], rel=RELATIVE_ERROR)


class TestWriter:
    def test_it_keeps_rows_while_the_database_is_away_and_counts_what_it_cannot_keep(self) -> None:
        written: list[int] = []
        is_away = True

        def write(rows: Any) -> None:
            if is_away:
                raise OperationalError("gone")
            written.extend(rows)

        writer = BatchWriter[int]("test", write, interval_ms=60_000, capacity=3)
        writer.hold()
        for number in range(5):
            writer.add(number)
        assert writer.lost == 2
        with pytest.raises(OperationalError):
            writer.flush()
        is_away = False
        assert writer.flush() == 3
        assert written == [0, 1, 2]
        assert writer.flush() == 0

    def test_it_drops_and_counts_what_the_database_refuses(self) -> None:
        def write(rows: Any) -> None:
            raise DataError("out of range")

        writer = BatchWriter[int]("test", write, interval_ms=60_000, capacity=3)
        writer.hold()
        writer.add(1)
        with pytest.raises(DataError):
            writer.flush()
        assert writer.lost == 1
        assert writer.flush() == 0

    def test_it_writes_a_full_batch_by_copy(self) -> None:
        for number in range(1000):
            performance_writer().add(row(result_count=number))
        assert performance_writer().flush() == 1000
        assert QueryPerformance.objects.count() == 1000

    def test_it_is_bounded_by_its_setting(self) -> None:
        writer = performance_writer()
        assert writer._capacity == django_settings.OPS_PERFORMANCE_BUFFER_ROWS


def test_every_timed_stage_is_in_the_views() -> None:
    source = Path(django_settings.BASE_DIR, "ops/migrations/0002_query_performance.py").read_text()
    in_view = re.findall(r"\('(\w+)', \1_ms\)", source)
    assert tuple(in_view) == performance.TIMED_STAGES


class TestUnfinished:
    def test_a_row_waits_for_the_time_of_what_comes_after(self) -> None:
        with unfinished() as held:
            record_query(row(timings_ms={"pipeline_ms": 5.0}))
        assert performance_writer().flush() == 0
        with held.finishing("generation"):
            pass
        held.finish({"tts_ms": 9.0})
        assert performance_writer().flush() == 1
        found = QueryPerformance.objects.get()
        assert (found.pipeline_ms, found.tts_ms) == (5.0, None)
        assert found.generation_ms is not None

    def test_one_within_another_gathers_the_times_of_both(self) -> None:
        with unfinished() as outer:
            with unfinished() as inner:
                record_query(row())
            inner.finish({"generation_ms": 7.0})
        assert performance_writer().flush() == 0
        outer.finish({"tts_ms": 9.0})
        performance_writer().flush()
        found = QueryPerformance.objects.get()
        assert (found.generation_ms, found.tts_ms) == (7.0, 9.0)

    def test_what_nobody_finishes_is_not_lost(self) -> None:
        with unfinished() as held:
            record_query(row())
        del held
        gc.collect()
        assert performance_writer().flush() == 1

    def test_a_search_that_fails_is_written_at_once(self) -> None:
        def failing() -> None:
            record_query(row(status=503))
            raise OperationalError

        with pytest.raises(OperationalError), unfinished():
            failing()
        assert performance_writer().flush() == 1
