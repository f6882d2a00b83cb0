"""`/metrics` and its relatives: valid, named by the conventions, bounded, and right with several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import current_app
from django.test import Client
from prometheus_client.exposition import generate_latest

from ops import gpu, queues
from ops.api import serializers
from ops.contracts.metrics import LATENCY_BUCKETS_S, metric_declarations
from ops.contracts.stage import stage
from ops.instrumentation import shared
from ops.instrumentation.performance import PerformanceRow, performance_writer, record_query
from ops.instrumentation.processes import registry
from tests.ops.exposition import families, faults
from zenglow_site import routing  # noqa: F401  (declares the metrics of websockets)
from zenglow_site.embedded.stack import EmbeddedStack

ROOT = Path(__file__).resolve().parents[2]


def row(number: int) -> PerformanceRow:
    return PerformanceRow(
        occurred_at=datetime.now(UTC),
        request_id=uuid.uuid4(),
        query_hmac=f"{number:064x}",
        collection=f"collection-{number}",
        variant="stable",
        mode="pgvector",
        cache=("full", "feature", "none")[number % 3],
        status=200,
        timings_ms={"pipeline_ms": 1.0},
        key_prefix=f"key{number:07d}",
    )


@pytest.fixture
def scrape(db: None, keys_off: None, local: Client, embedded_stack: EmbeddedStack) -> Callable[[], dict[str, Any]]:
    """Asks `/metrics` as Prometheus does, and reads the answer strictly."""

    def ask() -> dict[str, Any]:
        answer = local.get("/metrics", headers={"Accept": "text/plain;version=0.0.4"})
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/plain")
        return families(answer.content.decode())

    return ask


def series(found: dict[str, Any]) -> set[tuple[Any, ...]]:
    return {(sample.name, *sorted(sample.labels.items())) for family in found.values() for sample in family.samples}


class TestExposition:
    def test_it_is_valid_and_named_by_the_conventions(self, scrape: Callable[[], dict[str, Any]]) -> None:
        with stage("embed"):
            pass
        record_query(row(0))
        found = scrape()
        ours = {name for name in found if name.startswith("zenglow_")}
        assert faults(found, sorted(ours)) == []
        assert {"django_http_requests_total_by_method", "django_http_requests_latency_seconds_by_view_method"} <= {
            *found
        }
        declared = {declaration.name.removesuffix("_total") for declaration in metric_declarations()}
        assert ours - declared == set(), "exported but not declared"

    def test_it_tells_of_all_that_an_operator_asks_about(self, scrape: Callable[[], dict[str, Any]]) -> None:
        with stage("embed"):
            pass
        found = scrape()
        assert {
            *("zenglow_stage_duration_seconds", "zenglow_stage_failures", "zenglow_queries", "zenglow_cache_lookups"),
            *("zenglow_queue_messages", "zenglow_queue_oldest_seconds", "zenglow_websocket_sessions"),
            *("zenglow_index_runs", "zenglow_index_runs_open", "zenglow_index_documents", "zenglow_models"),
            *("zenglow_gpus", "zenglow_system_cpu_ratio", "zenglow_system_memory_bytes", "zenglow_system_disk_bytes"),
            *("zenglow_processes", "zenglow_processes_memory_bytes", "zenglow_tasks", "zenglow_task_wait_seconds"),
        } <= {*found}
        bounds = [
            float(sample.labels["le"])
            for sample in found["zenglow_stage_duration_seconds"].samples
            if sample.name.endswith("_bucket") and sample.labels["stage"] == "embed"
        ]
        assert bounds == [*LATENCY_BUCKETS_S, float("inf")]
        assert (bounds[0], bounds[-2]) == (0.0005, 30.0)

    def test_ten_thousand_users_and_queries_make_no_new_series(
        self, scrape: Callable[[], dict[str, Any]], local: Client
    ) -> None:
        for number in range(3):
            record_query(row(number))
            local.get(f"/search/?q=word{number}", headers={"X-Correlation-ID": f"c{number}"})
            local.get(f"/nowhere/{number}")
            local.get(f"/health/live?{number}", headers={"X-API-Key": f"zg_made_up_{number}"})
        scrape()
        before = series(scrape())
        for number in range(3, 10_003):
            record_query(row(number))
            if number % 1000 == 0:
                performance_writer().forget()
        for number in range(3, 53):
            local.get(f"/search/?q=word{number}", headers={"X-Correlation-ID": f"c{number}"})
            local.get(f"/nowhere/{number}")
            local.get(f"/health/live?{number}", headers={"X-API-Key": f"zg_made_up_{number}"})
        performance_writer().forget()
        assert series(scrape()) == before

    def test_what_can_not_be_read_is_left_out(
        self, scrape: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(current_app.conf, "broker_url", "redis://127.0.0.1:1/0")
        monkeypatch.setattr(queues, "_last", (float("-inf"), []))
        monkeypatch.setattr(queues, "TIMEOUT_S", 0.2)
        found = scrape()
        assert "zenglow_queue_messages" not in found
        assert "zenglow_system_cpu_ratio" in found


class TestQueues:
    def test_it_tells_how_much_waits_and_for_how_long(
        self, embedded_stack: EmbeddedStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        current_app.control.purge()
        monkeypatch.setattr(queues, "REUSED_FOR_S", 0.0)
        (empty,) = queues.queues()
        assert (empty.name, empty.depth, empty.oldest_s) == ("celery", 0, 0.0)
        for _ in range(2):
            current_app.send_task("ops.purge")
        (waiting,) = queues.queues()
        assert waiting.depth == 2
        assert waiting.oldest_s is not None
        (later,) = queues.queues()
        assert later.oldest_s is not None
        assert later.oldest_s > waiting.oldest_s, "the first one is the oldest"
        current_app.control.purge()


class TestJson:
    def test_its_keys_are_those_of_its_schema(self, db: None, keys_off: None, local: Client) -> None:
        with stage("embed"):
            pass
        for path, serializer in (
            ("/metrics/json", serializers.JsonMetricsSerializer),
            ("/metrics/basic", serializers.BasicMetricsSerializer),
        ):
            body = local.get(path).json()
            assert _unlike(serializer(), body, path) == []
        assert body["counters"]["cache_hits"].keys() == {"full", "feature", "none"}

    def test_no_gpu_is_an_empty_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "_is_present", False)
        assert gpu.gpus() == []


def _unlike(serializer: Any, body: Any, where: str) -> list[str]:
    """Where an answer has keys that its schema lacks, or lacks some of them."""
    fields = serializer.get_fields()
    wrong = [f"{where}: {set(body) ^ set(fields)}"] if set(body) != set(fields) else []
    for name, field in fields.items():
        values = body.get(name)
        if hasattr(field, "child") and hasattr(field.child, "get_fields"):
            for value in values.values() if isinstance(values, dict) else values or []:
                wrong += _unlike(field.child, value, f"{where}.{name}")
        elif hasattr(field, "get_fields"):
            wrong += _unlike(field, values, f"{where}.{name}")
    return wrong


COUNTING = """
import sys
from ops.contracts.metrics import declare_counter, declare_gauge, declare_latency
from ops.instrumentation import shared
from ops.instrumentation.snapshot import SNAPSHOT
things = declare_counter("things", "Things.", ("kind",))
open_now = declare_gauge("open_now", "Open.")
spent = declare_latency("spent_seconds", "Spent.")
for line in sys.stdin:
    number = int(line)
    things.labels("a").inc(number)
    open_now.set(number)
    spent.observe(number / 1000)
    SNAPSHOT.add_stage("embed", number, False)
    SNAPSHOT.add_query("full", False)
    shared.write(shared.shared_folder())
    print("done", flush=True)
"""


class Counting:
    """A process that counts what it is told to."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", COUNTING],
            cwd=ROOT,
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def count(self, number: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(with_signal)
        self.process.communicate()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def counting(folder: Path) -> Iterator[Callable[[], Counting]]:
    started: list[Counting] = []

    def start() -> Counting:
        started.append(Counting(folder))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)


def together() -> dict[str, float]:
    found = families(generate_latest(registry()).decode())
    return {
        sample.name + (f"<{sample.labels['le']}" if "le" in sample.labels else ""): sample.value
        for name in ("things", "open_now", "spent_seconds")
        for sample in (found[name].samples if name in found else ())
    }


class TestSeveralProcesses:
    def test_counts_are_added_up_and_outlive_their_process(
        self, counting: Callable[[], Counting], folder: Path, db: None
    ) -> None:
        first, second = counting(), counting()
        first.count(3)
        second.count(20)
        now = together()
        assert (now["things_total"], now["open_now"], now["spent_seconds_count"]) == (23, 23, 2)
        assert (now["spent_seconds_bucket<0.005"], now["spent_seconds_bucket<0.025"]) == (1, 2)

        first.end(signal.SIGKILL)
        second.count(1)
        for _ in range(2):
            now = together()
            assert (now["things_total"], now["open_now"], now["spent_seconds_count"]) == (24, 1, 3)
            assert now["spent_seconds_sum"] == pytest.approx(0.024)
        assert {file.name.rsplit("_", 1)[-1] for file in folder.glob("*.db")} == {
            "ended.db",
            f"{next(folder.glob('counter_*-*.db')).stem.removeprefix('counter_')}.db",
        }

        third = counting()
        third.count(100)
        second.end()
        third.end()
        now = together()
        assert (now["things_total"], now["spent_seconds_count"]) == (124, 4)
        assert "open_now" not in now

    def test_the_figures_in_memory_are_those_of_all(self, counting: Callable[[], Counting], folder: Path) -> None:
        before = shared.figures()
        first, second = counting(), counting()
        first.count(10)
        second.count(20)
        second.count(20)
        now = shared.figures()
        assert now.counts["embed"] - before.counts["embed"] == 3
        assert now.queries["full"] - before.queries["full"] == 3
        first.end()
        shared._checked.clear()
        assert shared.figures().counts["embed"] - before.counts["embed"] == 2
        assert len(list(folder.glob("figures_*.json"))) <= 2
