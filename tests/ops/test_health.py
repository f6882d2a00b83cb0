from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from kombu.exceptions import OperationalError
from pytest_django.fixtures import Settings

from models_registry import processes
from ops import health_checks
from ops.api import views
from ops.contracts.health import HealthCheck, Report, State
from ops.contracts.principal import Scope
from ops.health import HealthMonitor
from ops.queues import Queue
from tests.patience import PATIENCE_S, eventually
from tests.serving import free_port

WELL = HealthCheck("well", lambda: Report(State.OK, "fine"), critical=True)


def monitor(*checks: HealthCheck, timeout_s: float = 10, cache_s: float = 0) -> HealthMonitor:
    return HealthMonitor(timeout_s=timeout_s, cache_s=cache_s, checks=lambda: checks)


class TestMonitor:
    @pytest.mark.parametrize(
        ("state", "critical", "overall"),
        [
            (State.OK, True, State.OK),
            (State.DEGRADED, True, State.DEGRADED),
            (State.FAILED, False, State.DEGRADED),
            (State.FAILED, True, State.FAILED),
        ],
    )
    def test_it_fails_only_with_a_critical_check(self, state: State, critical: bool, overall: State) -> None:
        readiness = monitor(WELL, HealthCheck("other", lambda: Report(state), critical)).readiness()
        assert readiness.state is overall
        assert [finding.state for finding in readiness.findings] == [State.OK, state]

    def test_it_tells_an_exception_by_its_type_alone(self) -> None:
        def ask() -> Report:
            raise RuntimeError("password=hunter2")

        finding = monitor(HealthCheck("broken", ask, critical=True)).readiness().findings[0]
        assert (finding.state, finding.detail) == (State.FAILED, "RuntimeError")

    def test_it_reports_a_check_that_hangs_and_asks_it_no_second_time(self) -> None:
        release, asked = threading.Event(), []

        def hang() -> Report:
            asked.append(1)
            release.wait(PATIENCE_S)
            return Report(State.OK)

        monitoring = monitor(WELL, HealthCheck("hanging", hang, critical=True), timeout_s=0.05)

        def well_is_told() -> bool:
            readiness = monitoring.readiness()
            assert readiness.state is State.FAILED
            assert "No answer" in readiness.findings[1].detail
            return readiness.findings[0].state is State.OK

        for _ in range(3):
            eventually(well_is_told)  # a busy machine may not have come round to it at first
        assert len(asked) == 1
        release.set()
        eventually(lambda: monitoring.readiness().state is State.OK)

    def test_it_reuses_an_answer(self) -> None:
        asked: list[int] = []

        def ask() -> Report:
            asked.append(1)
            return Report(State.OK)

        monitoring = monitor(HealthCheck("counted", ask, critical=True), cache_s=3600)
        assert monitoring.readiness() is monitoring.readiness()
        assert len(asked) == 1

    def test_it_knows_since_when_a_state_lasts(self) -> None:
        state = State.OK
        monitoring = monitor(HealthCheck("changing", lambda: Report(state), critical=True))
        first = monitoring.readiness().findings[0].since
        assert monitoring.readiness().findings[0].since == first
        state = State.FAILED
        second = monitoring.readiness().findings[0].since
        assert second > first
        assert monitoring.readiness().findings[0].since == second


@pytest.mark.django_db
class TestChecks:
    def test_postgresql_tells_its_version_and_that_of_pgvector(self) -> None:
        report = health_checks.check_postgresql()
        assert report.state is State.OK
        assert "pgvector" in report.detail or "vector " in report.detail

    def test_postgresql_fails_when_it_is_away(self, settings: Settings) -> None:
        port = connection.settings_dict["PORT"]
        connection.settings_dict["PORT"] = "1"
        try:
            report = health_checks.check_postgresql()
        finally:
            connection.settings_dict["PORT"] = port
        assert report.state is State.FAILED
        assert "can't be reached (OperationalError)" in report.detail

    def test_an_old_pgvector_degrades(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health_checks, "PGVECTOR_AT_LEAST", (99, 0))
        report = health_checks.check_postgresql()
        assert report.state is State.DEGRADED
        assert "ALTER EXTENSION vector UPDATE" in report.detail

    def test_redis_answers(self) -> None:
        report = health_checks.check_redis()
        assert report.state is State.OK
        assert re.fullmatch(r"Redis \d+\.\d+\.\d+", report.detail)

    def test_a_lost_redis_says_what_it_costs(self, settings: Settings) -> None:
        location = f"redis://127.0.0.1:{free_port()}/0"
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": location}}
        report = health_checks.check_redis()
        assert report.state is State.FAILED
        assert "nothing is cached" in report.detail

    def test_the_broker_tells_what_waits(self) -> None:
        assert health_checks.check_broker().state is State.OK

    def test_a_lost_broker_is_told_apart_from_missing_workers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def lost() -> list[Queue]:
            raise OperationalError

        monkeypatch.setattr(health_checks, "queues", lost)
        for check in (health_checks.check_broker, health_checks.check_workers):
            report = check()
            assert report.state is State.FAILED
            assert report.detail.startswith("The broker can't be reached (OperationalError)")

    def test_a_missing_worker_degrades(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health_checks, "WORKER_PATIENCE_S", 0.05)
        report = health_checks.check_workers()
        assert report.state is State.DEGRADED
        assert "No worker" in report.detail

    def test_a_worker_too_busy_to_answer_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(health_checks, "WORKER_PATIENCE_S", 0.05)
        announcer = processes.Announcer("worker")
        announcer.tell()
        try:
            report = health_checks.check_workers()
            assert report.state is State.OK
            assert f"{socket.gethostname()}:{os.getpid()}" in report.detail
        finally:
            processes.withdraw(announcer.name)
        assert health_checks.check_workers().state is State.DEGRADED

    def test_what_a_dead_worker_said_is_not_believed(self) -> None:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        name = f"worker {socket.gethostname()}:{gone.pid}"
        processes._write(name, "worker", (), processes.EXPIRES_S)
        try:
            assert name.removeprefix("worker ") in processes.workers()
            assert health_checks.workers_alive() == []
        finally:
            processes.withdraw(name)

    @pytest.mark.parametrize(
        ("free", "state"), [(10 * 1024**3, State.OK), (1024**3, State.DEGRADED), (1024**2, State.FAILED)]
    )
    def test_the_disk_is_judged_by_what_is_left(self, monkeypatch: pytest.MonkeyPatch, free: int, state: State) -> None:
        usage = type("Usage", (), {"total": 100 * 1024**3, "free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
        assert health_checks.check_disk().state is state

    def test_the_disk_of_this_machine_can_be_read(self) -> None:
        assert "GiB" in health_checks.check_disk().detail


@pytest.mark.django_db(transaction=True)
def test_migrations_that_are_not_applied_fail() -> None:
    assert health_checks.check_migrations().state is State.OK
    name = "0002_query_performance"
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM django_migrations WHERE app = 'ops' AND name = %s", [name])
        try:
            report = health_checks.check_migrations()
        finally:
            cursor.execute("INSERT INTO django_migrations (app, name, applied) VALUES ('ops', %s, now())", [name])
    assert report.state is State.FAILED
    assert "ops.0002_query_performance" in report.detail


@pytest.mark.django_db
@pytest.mark.urls("tests.ops.probe_urls")
class TestReadyRoute:
    @pytest.fixture(autouse=True)
    def _own_monitor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks: list[HealthCheck] = [WELL]
        own = HealthMonitor(timeout_s=10, cache_s=0, checks=lambda: tuple(self.checks))
        monkeypatch.setattr(views, "health_monitor", lambda: own)

    def test_it_tells_strangers_names_and_states_only(self, keys_on: None, remote: Client) -> None:
        response = remote.get("/health/ready")
        assert response.status_code == 200
        assert response.json() == {"status": "ok", "checks": [{"name": "well", "state": "ok"}]}

    def test_it_tells_operators_everything(self, keys_on: None, remote: Client, key_with: Callable[..., str]) -> None:
        response = remote.get("/health/ready", headers={"x-api-key": key_with(Scope.OPS_READ)})
        check: dict[str, Any] = response.json()["checks"][0]
        assert set(check) == {"name", "state", "detail", "critical", "latency_ms", "since"}
        assert check["detail"] == "fine"

    def test_it_answers_503_when_a_critical_check_failed(self, keys_on: None, remote: Client) -> None:
        self.checks.append(HealthCheck("lost", lambda: Report(State.FAILED), critical=True))
        response = remote.get("/health/ready")
        assert (response.status_code, response.json()["status"]) == (503, "failed")
        assert response.headers["Retry-After"]
