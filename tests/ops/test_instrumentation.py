from __future__ import annotations

import math
import threading
from time import perf_counter

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from ops.contracts.stage import recording, stage, stage_ended
from ops.instrumentation.histogram import BUCKETS, FIRST_MS, GROWTH, RELATIVE_ERROR, bucket_of, percentile
from ops.instrumentation.prometheus import STAGE_DURATION, STAGE_FAILURES
from ops.instrumentation.snapshot import SNAPSHOT, WINDOW_S, Snapshot

durations = st.floats(FIRST_MS, FIRST_MS * GROWTH**BUCKETS * 0.99)


def histogram_of(values: list[float]) -> list[int]:
    counts = [0] * BUCKETS
    for value in values:
        counts[bucket_of(value)] += 1
    return counts


def nearest_rank(values: list[float], fraction: float) -> float:
    return sorted(values)[math.ceil(fraction * len(values)) - 1]


class TestHistogram:
    @given(st.lists(durations, min_size=1), st.sampled_from([0.5, 0.9, 0.95, 0.99, 1.0]))
    def test_its_percentile_is_within_the_stated_error(self, values: list[float], fraction: float) -> None:
        found = percentile(histogram_of(values), fraction)
        assert found is not None
        assert found == pytest.approx(nearest_rank(values, fraction), rel=RELATIVE_ERROR + 1e-9)

    @given(st.lists(durations), st.lists(durations))
    def test_histograms_add_up(self, first: list[float], second: list[float]) -> None:
        added = [a + b for a, b in zip(histogram_of(first), histogram_of(second), strict=True)]
        assert added == histogram_of(first + second)

    @pytest.mark.parametrize("odd", [0.0, -1.0, math.nan, math.inf, 1e300])
    def test_it_takes_any_number(self, odd: float) -> None:
        assert bucket_of(odd) in {0, BUCKETS - 1}

    def test_it_has_no_percentile_of_nothing(self) -> None:
        assert percentile([0] * BUCKETS, 0.5) is None

    @pytest.mark.django_db
    def test_the_database_computes_the_same(self) -> None:
        values = [0.01, 0.1, 0.35, 1.0, 3.0, 12.5, 12.6, 999.0, 20_000.0, 1e6]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT array_agg(latency_bucket(v) ORDER BY n) FROM unnest(%s) WITH ORDINALITY t(v, n)", [values]
            )
            assert cursor.fetchone()[0] == [bucket_of(value) + 1 for value in values]
            for fraction in (0.5, 0.95, 1.0):
                cursor.execute("SELECT latency_percentile(%s, %s)", [histogram_of(values), fraction])
                assert cursor.fetchone()[0] == pytest.approx(percentile(histogram_of(values), fraction))
            cursor.execute("SELECT latency_percentile(%s, 0.5)", [[0] * BUCKETS])
            assert cursor.fetchone()[0] is None


class TestSnapshot:
    def test_it_counts_stages_queries_and_caches(self) -> None:
        snapshot = Snapshot()
        for duration_ms, failed in ((10.0, False), (20.0, False), (1000.0, True)):
            snapshot.add_stage("embed", duration_ms, failed)
        snapshot.add_query("full", failed=False)
        snapshot.add_query("none", failed=True)
        figures = snapshot.stages()["embed"]
        assert (figures["count"], figures["errors"], figures["window_count"]) == (3, 1, 3)
        assert figures["p50_ms"] == pytest.approx(20, rel=RELATIVE_ERROR)
        assert figures["p95_ms"] == pytest.approx(1000, rel=RELATIVE_ERROR)
        assert snapshot.cache_hits() == {"full": 1, "feature": 0, "none": 1}
        assert snapshot.totals()["queries"] == 2
        assert snapshot.totals()["query_errors"] == 1

    def test_its_percentiles_forget_what_is_older_than_two_windows(self) -> None:
        now = 0.0
        snapshot = Snapshot(clock=lambda: now)
        snapshot.add_stage("ltr", 500.0, False)
        now = WINDOW_S + 1
        snapshot.add_stage("ltr", 1.0, False)
        assert snapshot.stages()["ltr"]["window_count"] == 2
        now = 2 * WINDOW_S + 1
        assert snapshot.stages()["ltr"]["window_count"] == 1
        now = 9 * WINDOW_S
        figures = snapshot.stages()["ltr"]
        assert (figures["count"], figures["window_count"], figures["p50_ms"]) == (2, 0, None)

    def test_it_loses_nothing_between_threads(self) -> None:
        snapshot = Snapshot()

        def work() -> None:
            for _ in range(2000):
                snapshot.add_stage("embed", 1.0, False)
                snapshot.add_query("none", failed=False)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert snapshot.stages()["embed"]["count"] == snapshot.totals()["queries"] == 16_000


def test_one_stage_reaches_every_sink() -> None:
    name = "test-stage"
    with recording() as timings, stage(name):
        pass
    with pytest.raises(ValueError, match="on purpose"), stage(name):
        raise ValueError("on purpose")
    figures = SNAPSHOT.stages()[name]
    assert (figures["count"], figures["errors"]) == (2, 1)
    assert timings.durations_ms[name] >= 0
    samples = {sample.name: sample.value for sample in STAGE_DURATION.labels(name)._samples()}  # type: ignore[attr-defined]
    assert samples["_count"] == 2
    assert STAGE_FAILURES.labels(name)._value.get() == 1


def test_a_stage_that_ends_elsewhere_than_it_began_reaches_them_too() -> None:
    name = "test-far-stage"
    stage_ended(name, perf_counter() - 2)
    stage_ended(name, perf_counter(), failed=True)
    figures = SNAPSHOT.stages()[name]
    assert (figures["count"], figures["errors"]) == (2, 1)
    assert figures["p95_ms"] is not None
    assert figures["p95_ms"] >= 2000 * (1 - RELATIVE_ERROR)
    assert STAGE_FAILURES.labels(name)._value.get() == 1
