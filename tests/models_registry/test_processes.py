from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.test import Client
from django_redis import get_redis_connection

from models_registry import loading, processes
from models_registry.loading import LoadReport, LoadState
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from zenglow_site.embedded.processes import wait_until

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("empty_cache")]

OTHER_PROCESS = """
import django, sys
django.setup()
from models_registry import loading, processes
with loading.loading("ranker@7"):
    pass
announcer = processes.announce("worker")
announcer.tell()
print(announcer.name, flush=True)
sys.stdin.readline()
announcer.stop()
"""


@pytest.fixture(autouse=True)
def nothing_loaded() -> Iterator[None]:
    kept = dict(loading._reports)
    loading._reports.clear()
    yield
    loading._reports.clear()
    loading._reports.update(kept)


@pytest.fixture
def api() -> Client:
    key = keys.create_key("ops", [Scope.OPS_READ], actor=SYSTEM)
    return Client(headers={"Authorization": f"Bearer {key.text}"})


def test_loading_is_told_with_time_memory_and_device() -> None:
    with loading.loading("ranker@1"):
        held = bytearray(64 * 1024 * 1024)
        held[::4096] = b"x" * len(held[::4096])
        assert loading.report_of("ranker@1").state == LoadState.LOADING
    report = loading.report_of("ranker@1")
    assert (report.state, report.device, report.error) == (LoadState.READY, "cpu", None)
    assert report.load_time_ms is not None
    assert report.memory_bytes is not None
    assert report.memory_bytes > 32 * 1024 * 1024
    loading.draining("ranker@1")
    assert loading.report_of("ranker@1").load_time_ms == report.load_time_ms


def test_processes_know_of_each_other_until_they_end(api: Client) -> None:
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "ZENGLOW_TEST_DATA_DIR": str(django_settings.ZENGLOW_DATA_DIR),
        "PYTEST_XDIST_WORKER": django_settings.CACHES["default"]["KEY_PREFIX"].removeprefix("test-"),
        "PATH": "",
    }
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS],
        cwd=django_settings.BASE_DIR,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        name = other.stdout.readline().strip()
        with loading.loading("ranker@8"):
            pass
        body = api.get("/health/models").json()
        other.communicate("end\n")
    assert body["sees_all_processes"]
    states = {entry["model"]: entry for entry in body["models"]}
    (there,) = states["ranker@7"]["processes"]
    assert (there["process"], there["role"], there["state"]) == (name, "worker", "ready")
    assert there["load_time_ms"] is not None
    (here,) = states["ranker@8"]["processes"]
    assert here["process"] == body["process"]
    assert [report.name for report in processes.all_reports()] == []


def test_a_change_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "BEAT_S", 3600)
    announcer = processes.announce("web")
    try:
        assert wait_until(lambda: bool(processes.all_reports()), 60)
        with pytest.raises(RuntimeError), loading.loading("ranker@1"):
            raise RuntimeError("no trees")

        def failed() -> bool:
            return any(
                held.state == LoadState.FAILED and held.error == "RuntimeError: no trees"
                for report in processes.all_reports()
                for held in report.models
            )

        assert wait_until(failed, 60)
    finally:
        announcer.stop()


def test_a_model_is_ready_when_another_web_process_has_it_ready() -> None:
    label = "mouth@1"
    assert processes.report_of(label).state == LoadState.UNLOADED
    processes._write("worker elsewhere:1", "worker", [LoadReport(label, LoadState.READY)], 20)
    processes._write("web elsewhere:2", "web", [LoadReport(label, LoadState.IDLE)], 20)
    assert processes.report_of(label).state == LoadState.UNLOADED
    processes._write("web elsewhere:3", "web", [LoadReport(label, LoadState.READY, load_time_ms=7.0)], 20)
    assert processes.report_of(label) == LoadReport(label, LoadState.READY, load_time_ms=7.0)


def test_what_a_killed_process_told_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    processes.Announcer("web").tell()
    (name,) = [report.name for report in processes.all_reports()]
    connection = get_redis_connection("default")
    assert 0 < connection.pttl(processes._key(name)) <= processes.EXPIRES_S * 1000
    connection.zadd(processes._index(), {name: 1.0})
    assert processes.all_reports() == []


def test_without_redis_the_process_that_answers_is_listed_alone(api: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with loading.loading("ranker@1"):
        pass

    def refuse(alias: str) -> Any:
        raise redis.ConnectionError("refused")

    monkeypatch.setattr(processes, "get_redis_connection", refuse)
    body = api.get("/health/models").json()
    assert not body["sees_all_processes"]
    assert [entry["state"] for entry in body["models"] if entry["model"] == "ranker@1"] == ["ready"]
    processes.report_elsewhere("ollama http://x", [])


def test_every_registered_model_is_listed(api: Client, make_version: Any) -> None:
    make_version("ranker")
    make_version("ranker", content=b"newer")
    body = json.loads(api.get("/health/models").content)
    (entry,) = body["models"]
    assert (entry["model"], entry["kind"], entry["status"], entry["state"]) == ("ranker@2", "ltr", "ready", "unloaded")
    assert entry["processes"] == []
