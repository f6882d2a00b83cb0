"""Rolling statistics on the real Redis: merged over processes, expiring, and missing when Redis is."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from hypothesis import given
from hypothesis import strategies as st

from models_registry import rollup, sketch, statistics
from models_registry.models import ModelStat
from models_registry.statistics import Observation, figures, model_subject, observe, observe_model_call
from ops.contracts.model_calls import ModelCall

durations = st.floats(sketch.SMALLEST_MS * 1.1, sketch.LARGEST_MS * 0.9)


@pytest.fixture(autouse=True)
def _nothing_counted_yet(embedded_stack: object) -> Iterator[None]:
    statistics.recorder().forget()
    statistics.forget()
    yield
    statistics.recorder().forget()
    statistics.forget()


def sketch_of(values: list[float]) -> Counter[int]:
    return Counter(map(sketch.bucket_of, values))


def call(label: str = "mini@1", duration_ms: float = 10.0, **facts: Any) -> ModelCall:
    return ModelCall("embedder", label, "query", duration_ms=duration_ms, **facts)


class TestSketch:
    @given(st.lists(durations, min_size=1), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
    def test_a_quantile_is_within_the_stated_error(self, values: list[float], fraction: float) -> None:
        exact = sorted(values)[max(math.ceil(fraction * len(values)), 1) - 1]
        found = sketch.quantile(sketch_of(values), fraction)
        assert found == pytest.approx(exact, rel=sketch.RELATIVE_ERROR + 1e-9)

    @given(st.lists(durations), st.lists(durations))
    def test_merged_sketches_are_the_sketch_of_everything(self, first: list[float], second: list[float]) -> None:
        assert sketch.merge(sketch_of(first), sketch_of(second)) == sketch_of(first + second)

    @pytest.mark.parametrize("odd", [0.0, -1.0, math.nan, math.inf, 1e300])
    def test_it_takes_any_number(self, odd: float) -> None:
        assert sketch.bucket_of(odd) in {sketch.bucket_of(0), sketch.bucket_of(sketch.LARGEST_MS)}

    def test_nothing_has_no_quantile(self) -> None:
        assert sketch.quantile({}, 0.5) is None


class TestWindows:
    def test_calls_are_counted_in_every_window_with_their_items_tokens_and_durations(self) -> None:
        for duration_ms in range(1, 101):
            observe_model_call(call(duration_ms=float(duration_ms), items=2, tokens=7, output_tokens=3, batch_size=4))
        observe_model_call(call(duration_ms=1e6, error="EmbeddingError"))
        statistics.recorder().flush()
        found = statistics.figures_by_window([model_subject("embedder", "mini@1")])[model_subject("embedder", "mini@1")]
        assert set(found) == set(statistics.WINDOWS)
        for window, of_window in found.items():
            assert (of_window.calls, of_window.errors, of_window.batch_size) == (101, 1, 4.0)
            assert of_window.p50_ms == pytest.approx(50, rel=0.011)
            assert of_window.p95_ms == pytest.approx(95, rel=0.011)
            assert of_window.p99_ms == pytest.approx(99, rel=0.011)
            seconds, resolution = statistics.WINDOWS[window]
            assert seconds <= of_window.window_s <= seconds + resolution.slot_s
            assert of_window.items_per_s == pytest.approx(200 / of_window.window_s, abs=0.01)
            assert of_window.tokens_per_s == pytest.approx(1000 / of_window.window_s, abs=0.01)

    def test_processes_add_up(self) -> None:
        code = """
import django; django.setup()
from models_registry import statistics
from ops.contracts.model_calls import ModelCall
for _ in range(50):
    statistics.observe_model_call(ModelCall("ltr", "shared@1", "rank", duration_ms=5.0, items=3))
"""  # not flushed by hand: an ordinary end writes what is left
        prefix = django_settings.CACHES["default"]["KEY_PREFIX"]
        start = f"import tests.settings as s; s.CACHES['default']['KEY_PREFIX'] = {prefix!r}\n"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", start + code],
                env={
                    "DJANGO_SETTINGS_MODULE": "tests.settings",
                    "ZENGLOW_TEST_DATA_DIR": str(django_settings.ZENGLOW_DATA_DIR),
                    "PATH": "/usr/bin:/bin",
                },
                cwd=django_settings.BASE_DIR,
            )
            for _ in range(2)
        ]
        assert [process.wait() for process in processes] == [0, 0]
        name = model_subject("ltr", "shared@1")
        tally, _ = statistics.tallies([name], "5m")
        assert tally[name]["calls"] == 100
        assert tally[name]["items"] == 300

    def test_slots_expire_by_themselves(self) -> None:
        observe_model_call(call())
        statistics.recorder().flush()
        client = statistics._client()
        keys = list(client.scan_iter(match=f"{statistics._key()}:*embedder*"))
        assert len(keys) == len(statistics.RESOLUTIONS)
        assert all(0 < client.ttl(key) <= statistics.COARSE.kept_s for key in keys)

    def test_what_counts_forever_has_a_total(self) -> None:
        observe(Observation("rollout:1:1:canary", {"answers": 1, "empty": 1}, 12.0, forever=True))
        observe(Observation("rollout:1:1:canary", {"answers": 1}, forever=True))
        statistics.recorder().flush()
        total = statistics.totals(["rollout:1:1:canary", "rollout:1:1:stable"])
        assert total["rollout:1:1:canary"] == {"answers": 2, "empty": 1, f"b{sketch.bucket_of(12.0)}": 1}
        assert total["rollout:1:1:stable"] == {}

    def test_a_window_without_calls_has_no_percentile(self) -> None:
        assert figures(Counter(), 60.0).p95_ms is None


class TestWithoutRedis:
    @pytest.fixture
    def no_redis(self) -> Iterator[None]:
        """A client of a port where nobody listens: what a Redis that is down looks like."""
        away = redis.Redis(host="127.0.0.1", port=1, socket_connect_timeout=0.2)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(statistics, "_client", lambda: away)
            patch.setattr(statistics.recorder(), "_write", statistics._Writer())
            yield

    def test_statistics_pause_and_nothing_breaks(self, no_redis: None, caplog: pytest.LogCaptureFixture) -> None:
        for _ in range(3):
            observe_model_call(call())
            statistics.recorder().flush()
        assert caplog.text.count("Statistics pause while Redis does not answer") == 1
        assert statistics.model_figures([("embedder", "mini@1")]) is None
        assert rollup.roll_up() == 0
        with pytest.raises(statistics.StatisticsUnavailableError):
            statistics.subjects()


@pytest.mark.django_db
class TestRollUp:
    def test_a_slot_that_has_ended_becomes_one_row_however_often_it_is_rolled_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = statistics._now
        monkeypatch.setattr(statistics, "_now", lambda client: real(client) - 1800)
        for _ in range(4):
            observe_model_call(call(duration_ms=20.0, items=1, tokens=3, batch_size=2))
        statistics.recorder().flush()
        monkeypatch.setattr(statistics, "_now", real)
        observe_model_call(call(duration_ms=1.0))  # in a slot that goes on
        statistics.recorder().flush()

        assert rollup.roll_up() == 1
        assert rollup.roll_up() == 0
        row = ModelStat.objects.get()
        assert (row.kind, row.model, row.seconds) == ("embedder", "mini@1", 900)
        assert (row.calls, row.items, row.tokens, row.batches, row.batched) == (4, 4, 12, 4, 8)
        assert sketch.quantile({int(b): n for b, n in row.buckets.items()}, 0.5) == pytest.approx(20, rel=0.011)

    def test_old_rows_are_purged(self) -> None:
        from datetime import UTC, datetime, timedelta

        now = datetime.now(UTC)
        for days in (1, 200):
            ModelStat.objects.create(
                kind="ltr", model="m@1", started_at=now - timedelta(days=days), seconds=900, calls=1, errors=0,
                items=0, tokens=0, batches=0, batched=0, buckets={},
            )  # fmt: skip
        assert rollup.purge(now) == 1


def test_hosts_whose_clocks_differ_count_into_the_same_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    real = time.time
    for skew_s in (-7200.0, 0.0, 7200.0):
        monkeypatch.setattr(time, "time", lambda skew_s=skew_s: real() + skew_s)
        observe_model_call(call("skewed@1"))
        statistics.recorder().flush()
    name = model_subject("embedder", "skewed@1")
    assert statistics.tallies([name], "1m")[0][name]["calls"] == 3
