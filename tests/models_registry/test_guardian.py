"""The guardian on real statistics: it rolls back with a reason, takes steps, and outlives its processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

from models_registry import clock, deployments, guardian, rollouts, statistics, weights
from models_registry.models import Deployment, FusionWeights, ModelVersion, Rollout, RolloutMode, Slot
from models_registry.rollouts import Plan
from models_registry.routing import Arm, observe_answer, observe_comparison, observe_feedback
from ops.contracts.principal import SYSTEM
from ops.models import AlertEvent
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_counted_yet(embedded_stack: object) -> Iterator[None]:
    statistics.recorder().forget()
    statistics.forget()
    yield
    statistics.recorder().forget()
    statistics.forget()


@pytest.fixture
def candidate() -> FusionWeights:
    weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
    return weights.create_version(weights.propose(0.7, 0.3), by=SYSTEM)


def arm(rollout: Rollout, variant: str) -> Arm:
    share = rollout.deployments.order_by("-id").first()
    assert share is not None
    return Arm(rollout.pk, share.pk, variant, rollout.slot)


def answers(rollout: Rollout, variant: str, count: int, **facts: Any) -> None:
    for number in range(count):
        observe_answer([arm(rollout, variant)], **({"duration_ms": 10 + number % 7} | facts))


def flush() -> None:
    statistics.recorder().flush()


def test_a_candidate_that_fails_is_rolled_back_with_an_alert_that_says_why(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)
    answers(rollout, "stable", 400)
    answers(rollout, "canary", 120, duration_ms=None, failed=True)
    flush()
    (sentence,) = guardian.look()
    ended = rollouts.find(rollout.pk)
    assert ended.state == "rolled_back"
    assert "error_rate: 100.0% of its answers failed" in ended.outcome
    assert deployments.live().filter(role="canary").count() == 0
    alert = AlertEvent.objects.get(name=f"rollout-{rollout.pk}-rolled-back")
    assert alert.message == sentence
    assert {reading["guardrail"] for reading in alert.details["readings"]} >= {"error_rate", "latency_ratio"}
    assert guardian.look() == []


def test_a_slow_candidate_is_rolled_back_by_its_p95(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)
    answers(rollout, "stable", 800)
    for number in range(800):
        observe_answer([arm(rollout, "canary")], duration_ms=100 + number % 7)
    flush()
    assert "latency_ratio: its p95 is" in guardian.look()[0]


def test_fewer_clicks_roll_back_too(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)
    for variant, clicks in (("stable", 700), ("canary", 100)):
        answers(rollout, variant, 1000)
        for _ in range(clicks):
            observe_feedback([arm(rollout, variant)], {"clicked": 1})
    flush()
    assert "click_rate: 10.0% of its answers were clicked on against 70.0%" in guardian.look()[0]


def test_a_shadow_that_ranks_otherwise_ends_without_having_served_anybody(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, plan=Plan(mode=RolloutMode.SHADOW, steps=(100,)), by=SYSTEM)
    for _ in range(300):
        observe_comparison(
            arm(rollout, "shadow"), overlap=0.1, changes=9, duration_ms=9.0, served_ms=9.0, empty=False, failed=False
        )
    flush()
    assert "shadow_overlap: its rankings overlap with the served ones by 0.10" in guardian.look()[0]


def test_an_equal_candidate_goes_on(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)
    for variant in ("stable", "canary"):
        answers(rollout, variant, 500)
    flush()
    assert guardian.look() == []
    standing = guardian.standing_of(rollout)
    assert standing.samples == 500
    assert not any(reading.breached for reading in standing.readings)


def test_samples_of_an_earlier_share_do_not_count(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)
    answers(rollout, "canary", 300, failed=True)
    rollout = rollouts.step(rollout.pk, by=SYSTEM)
    answers(rollout, "stable", 300)
    flush()
    assert guardian.look() == []


def test_automatic_steps_wait_for_time_and_samples_and_end_with_the_promotion(candidate: FusionWeights) -> None:
    rollout = rollouts.start(candidate, plan=Plan(steps=(5, 100), automatic=True, step_minutes=30), by=SYSTEM)
    answers(rollout, "canary", 99)
    flush()
    Rollout.objects.update(stepped_at=clock.now() - timedelta(minutes=31))
    assert guardian.look() == []  # one sample is missing
    answers(rollout, "canary", 1)
    flush()
    assert "has 100 % now: 100 answers at 5 % without a breach" in guardian.look()[0]
    answers(rollouts.find(rollout.pk), "canary", 200)
    flush()
    assert guardian.look() == []  # half an hour is missing
    Rollout.objects.update(stepped_at=clock.now() - timedelta(minutes=31))
    assert "was promoted" in guardian.look()[0]
    assert deployments.effective(Slot.WEIGHTS, "global").weights == candidate  # type: ignore[union-attr]


def test_a_candidate_whose_file_disappears_is_rolled_back(
    make_version: Callable[..., ModelVersion], store: Any
) -> None:
    deployments.activate(Slot.LTR, make_version(), by=SYSTEM)
    second = make_version(content=b"other trees")
    rollout = rollouts.start(second, by=SYSTEM)
    assert guardian.look() == []
    next(store.rglob(f"*{second.artifacts['model']}*")).unlink()
    (sentence,) = guardian.look()
    assert f"the file 'model' of {second} is gone" in sentence
    assert rollouts.find(rollout.pk).state == "rolled_back"


def test_without_redis_a_rollout_stays_as_it_is(candidate: FusionWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    rollout = rollouts.start(candidate, by=SYSTEM)

    def away(names: object) -> Any:
        raise statistics.StatisticsUnavailableError

    monkeypatch.setattr(statistics, "totals", away)
    assert guardian.look() == []
    assert rollouts.find(rollout.pk).state == "running"


@pytest.mark.django_db(transaction=True)
class TestProcesses:
    @pytest.fixture
    def start(self) -> Iterator[Callable[[], subprocess.Popen[str]]]:
        """Starts real guardians on this test's database."""
        processes: list[subprocess.Popen[str]] = []
        database = connection.settings_dict["NAME"]
        prefix = django_settings.CACHES["default"]["KEY_PREFIX"]
        code = (
            "import sys, threading\n"
            "import tests.settings as s\n"
            f"s.DATABASES['default']['NAME'] = {database!r}\n"
            f"s.CACHES['default']['KEY_PREFIX'] = {prefix!r}\n"
            "import django; django.setup()\n"
            "from models_registry.guardian import watch\n"
            "print('waiting', flush=True)\n"
            "watch(threading.Event(), lambda: print('leading', flush=True))\n"
        )

        def run() -> subprocess.Popen[str]:
            environment = {
                "DJANGO_SETTINGS_MODULE": "tests.settings",
                "ZENGLOW_TEST_DATA_DIR": str(django_settings.ZENGLOW_DATA_DIR),
                "PATH": "/usr/bin:/bin",
            }
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                env=environment,
                cwd=django_settings.BASE_DIR,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            return process

        yield run
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def test_when_the_guardian_is_killed_another_one_goes_on(
        self, start: Callable[[], subprocess.Popen[str]], candidate: FusionWeights
    ) -> None:
        first = start()
        assert first.stdout is not None
        assert first.stdout.readline() == "leading\n"
        second = start()
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert second.stdout is not None
        assert second.stdout.readline() == "leading\n"

        rollout = rollouts.start(candidate, by=SYSTEM)
        answers(rollout, "stable", 300)
        answers(rollout, "canary", 200, failed=True)
        flush()
        deadline = time.monotonic() + PATIENCE_S
        while rollouts.find(rollout.pk).is_open:
            assert time.monotonic() < deadline, "the second guardian did nothing"
            time.sleep(0.05)
        assert rollouts.find(rollout.pk).state == "rolled_back"
        assert Deployment.objects.filter(slot="weights", role="stable", ended_at=None).count() == 1

    def test_a_process_that_is_killed_while_it_promotes_leaves_what_was_before(self, candidate: FusionWeights) -> None:
        """Killed after the rollout was ended and before the candidate became stable, in one transaction."""
        rollout = rollouts.start(candidate, by=SYSTEM)
        before = deployments.effective(Slot.WEIGHTS, "global")
        code = (
            "import tests.settings as s\n"
            f"s.DATABASES['default']['NAME'] = {connection.settings_dict['NAME']!r}\n"
            "import django; django.setup()\n"
            "import os, signal\n"
            "from models_registry import clock, deployments, rollouts\n"
            "from ops.contracts.principal import SYSTEM\n"
            "real = deployments._replace\n"
            "def killed(*args, **kwargs):\n"
            "    real(*args, **kwargs)\n"
            "    os.kill(os.getpid(), signal.SIGKILL)\n"
            "deployments._replace = killed\n"
            f"rollouts.promote({rollout.pk}, by=SYSTEM)\n"
        )
        environment = {
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "ZENGLOW_TEST_DATA_DIR": str(django_settings.ZENGLOW_DATA_DIR),
            "PATH": "/usr/bin:/bin",
        }
        died = subprocess.run([sys.executable, "-c", code], env=environment, cwd=django_settings.BASE_DIR, check=False)
        assert died.returncode == -signal.SIGKILL
        # The database may notice a moment later that its client is gone: the next writer waits for that.
        assert rollouts.step(rollout.pk, by=SYSTEM).state == "running"
        assert deployments.effective(Slot.WEIGHTS, "global") == before
        assert deployments.live().filter(slot="weights").count() == 2  # stable, and the candidate beside it
        assert rollouts.promote(rollout.pk, by=SYSTEM).state == "promoted"
