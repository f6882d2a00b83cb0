from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from models_registry import processes
from models_registry.loading import LoadReport, LoadState
from models_registry.models import Deployment, Model, ModelVersion
from ops import alerts
from ops.alerting import rules
from ops.alerting.measures import latency_history, read_latency
from ops.alerting.rules import INTERVAL, evaluate, replay
from ops.contracts import measures
from ops.contracts.measures import Measure, register_measure
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Conflict, Unprocessable
from ops.instrumentation.performance import VOICE_MODE
from ops.models import AlertEvent, AlertRule, AlertState, AuditEvent
from tests.ops.performance.rows import row, write

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 5, 2, 12, tzinfo=UTC)


@pytest.fixture
def figure(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A measure that reads what the test says, or raises it."""
    monkeypatch.setattr(measures, "_measures", dict(measures._measures))
    said: dict[str, Any] = {"value": 0.0}

    def read(labels: Any, at: Any, window: Any) -> float:
        if isinstance(said["value"], Exception):
            raise said["value"]
        return said["value"]

    register_measure(Measure("figure", "What the test says.", "", read, ("side",)))
    AlertRule.objects.all().delete()
    return said


def rule(**changes: Any) -> AlertRule:
    return AlertRule.objects.create(
        **({"name": "high", "measure": "figure", "threshold": 10, "clear_threshold": 8, "for_s": 30} | changes)
    )


def tick(count: int) -> datetime:
    return NOW + count * INTERVAL


class TestEvaluation:
    def test_it_opens_one_alert_and_ends_it(self, figure: dict[str, Any]) -> None:
        rule()
        for number, value in enumerate((11, 12, 13, 14)):
            figure["value"] = value
            evaluate(tick(number))
        event = AlertEvent.objects.get()
        assert (event.name, event.rule.name, event.count) == ("high", "high", 2)  # type: ignore[union-attr]
        assert event.message == "figure is 14, above 10"
        figure["value"] = 9
        assert evaluate(tick(4)) == []
        figure["value"] = 7
        assert evaluate(tick(5)) == ["high"]
        assert AlertEvent.objects.get().resolved_at is not None

    def test_it_reads_each_rule_once_however_many_ask_at_once(self, figure: dict[str, Any]) -> None:
        rule(for_s=0)
        figure["value"] = 11
        evaluate(NOW)
        evaluate(NOW + INTERVAL / 4)
        assert AlertEvent.objects.get().count == 1

    def test_a_figure_that_cannot_be_read_changes_nothing_and_is_shown(self, figure: dict[str, Any]) -> None:
        rule(for_s=0)
        figure["value"] = 11
        evaluate(NOW)
        figure["value"] = ConnectionError("away")
        evaluate(tick(1))
        assert AlertState.objects.get().fault == "ConnectionError: away"
        assert AlertEvent.objects.get().resolved_at is None
        figure["value"] = 0
        evaluate(tick(2))
        assert AlertState.objects.get().fault == ""
        assert AlertEvent.objects.get().resolved_at is not None

    def test_a_rule_that_breaks_the_database_does_not_stop_the_others(self, figure: dict[str, Any]) -> None:
        def read(labels: Any, at: Any, window: Any) -> float:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1/0")
            return 0.0

        register_measure(Measure("broken", "", "", read))
        rule(name="a-broken", measure="broken")
        rule(name="b-gone", measure="gone")
        rule(name="c-works", for_s=0)
        figure["value"] = 11
        assert evaluate(NOW) == ["c-works"]
        assert "Nothing measures 'gone'" in AlertState.objects.get(rule__name="b-gone").fault

    def test_a_rule_that_is_switched_off_leaves_no_alert_open(self, figure: dict[str, Any]) -> None:
        rule(for_s=0)
        figure["value"] = 11
        evaluate(NOW)
        AlertRule.objects.update(enabled=False)
        evaluate(tick(1))
        assert AlertEvent.objects.get().resolved_at is not None

    def test_an_alert_that_was_closed_by_hand_opens_again_after_its_waiting_time(self, figure: dict[str, Any]) -> None:
        rule(for_s=15)
        figure["value"] = 11
        evaluate(tick(0))
        evaluate(tick(1))
        alerts.close(alerts.find_open("high"), by=SYSTEM)
        evaluate(tick(2))
        assert AlertEvent.objects.filter(resolved_at=None).count() == 0
        evaluate(tick(3))
        assert AlertEvent.objects.filter(resolved_at=None).count() == 1

    def test_an_alert_is_acknowledged_once(self, figure: dict[str, Any]) -> None:
        rule(for_s=0)
        figure["value"] = 11
        evaluate(NOW)
        event = alerts.find_open("high")
        alerts.acknowledge(event, by=SYSTEM)
        with pytest.raises(Conflict):
            alerts.acknowledge(event, by=SYSTEM)
        assert AuditEvent.objects.get(action="alert.acknowledge").target == "high"


@pytest.mark.django_db(transaction=True)
def test_two_evaluators_at_once_read_a_rule_once(figure: dict[str, Any]) -> None:
    rule(for_s=0)
    figure["value"] = 11
    ready = threading.Barrier(4)

    def run() -> None:
        ready.wait(60)
        evaluate(NOW)
        connection.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert AlertEvent.objects.get().count == 1


class TestValidation:
    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"measure": "lunch"}, "measure"),
            ({"labels": {"shoe": "1"}}, "labels"),
            ({"labels": ["stage"]}, "labels"),
            ({"labels": {"side": 1}}, "labels"),
            ({"measure": "latency_p95", "labels": {"stage": "embedding"}}, "labels"),
            ({"clear_threshold": 12}, "clear_threshold"),
            ({"comparison": "below", "clear_threshold": 8}, "clear_threshold"),
            ({"window_s": 1}, "window_s"),
            ({"severity": "loud"}, "severity"),
        ],
    )
    def test_it_names_the_field_that_is_wrong(
        self, figure: dict[str, Any], changes: dict[str, Any], field: str
    ) -> None:
        values = {"name": "high", "measure": "figure", "threshold": 10, "labels": {"side": "left"}}
        with pytest.raises(ValidationError) as refused:
            AlertRule(**(values | changes)).full_clean()
        assert field in refused.value.message_dict

    def test_the_rules_that_ship_are_valid(self) -> None:
        assert AlertRule.objects.count() >= 7
        for one in AlertRule.objects.all():
            one.full_clean()


class TestMeasures:
    def test_latency_is_of_the_window_and_of_enough_queries(self) -> None:
        labels = {"variant": "stable"}
        write(row(occurred_at=NOW - timedelta(minutes=9), timings_ms={"pipeline_ms": 900.0}) for _ in range(9))
        write(row(occurred_at=NOW - timedelta(minutes=2), timings_ms={"pipeline_ms": 50.0}) for _ in range(9))
        assert read_latency(labels, NOW, timedelta(minutes=5)) == pytest.approx(50, rel=0.05)
        assert read_latency(labels, NOW, timedelta(minutes=15)) == pytest.approx(900, rel=0.05)
        assert read_latency({"variant": "canary"}, NOW, timedelta(minutes=15)) is None
        assert read_latency({"stage": "embed"}, NOW, timedelta(minutes=15)) is None

    def test_its_history_says_at_each_minute_what_would_have_been_read_then(self) -> None:
        write(
            row(occurred_at=NOW + timedelta(seconds=20 * n), timings_ms={"pipeline_ms": float(10 + n)})
            for n in range(60)
        )
        window, end = timedelta(minutes=5), NOW + timedelta(minutes=30)
        for at, value in latency_history({}, window, NOW, end, timedelta(minutes=1)):
            assert value == read_latency({}, at, window)

    def test_shares_count_what_they_say(self) -> None:
        write(
            row(occurred_at=NOW - timedelta(minutes=1), status=status, cache=cache)
            for status, cache in [(200, "full")] * 3 + [(200, "none")] * 6 + [(503, "none")]
        )
        for name, share in (("cache_hit_rate", 0.3), ("error_rate", 0.1)):
            measure = measures.measures()[name]
            assert measure.read({}, NOW, timedelta(minutes=5)) == pytest.approx(share)
            assert measure.read({"collection": "other"}, NOW, timedelta(minutes=5)) is None
            assert measure.history is not None
            found = measure.history({}, timedelta(minutes=5), NOW, NOW, INTERVAL)
            assert found == [(NOW, pytest.approx(share))]

    def test_the_row_that_adds_the_times_of_speech_to_a_search_is_no_query_in_any_share(self) -> None:
        at, speech = NOW - timedelta(minutes=1), {"stt_ms": 200.0, "tts_ms": 90.0}
        write(row(occurred_at=at, status=status, cache="full") for status in [200] * 3 + [503])
        write(row(occurred_at=at, mode=VOICE_MODE, timings_ms=speech) for _ in range(4))
        for name in ("cache_hit_rate", "error_rate"):
            assert measures.measures()[name].read({}, NOW, timedelta(minutes=5)) is None  # four queries are too few
        write([row(occurred_at=at, cache="none")])
        for name, share in (("cache_hit_rate", 0.8), ("error_rate", 0.2)):
            measure = measures.measures()[name]
            assert measure.read({}, NOW, timedelta(minutes=5)) == pytest.approx(share)
            assert measure.history is not None
            assert measure.history({}, timedelta(minutes=5), NOW, NOW, INTERVAL) == [(NOW, pytest.approx(share))]

    def test_the_disk_and_what_is_indexed_can_be_read(self) -> None:
        for name in ("disk_used", "index_failures", "models_failed"):
            value = measures.measures()[name].read({}, NOW, timedelta(hours=1))
            assert value is not None
            assert value >= 0
        alerts.raise_alert("ranker-broken-x", "critical", "broken")  # type: ignore[arg-type]
        assert measures.measures()["models_failed"].read({}, NOW, timedelta(hours=1)) == 1

    def test_models_that_a_process_says_it_cannot_load_are_counted_where_they_are_live(self) -> None:
        def failed() -> float | None:
            return measures.measures()["models_failed"].read({}, NOW, timedelta(hours=1))

        voice = ModelVersion.objects.create(model=Model.objects.create(name="mouth", kind="tts"), number=3)
        for process in ("web a:1", "web b:2"):
            processes._write(process, "web", [LoadReport("mouth@3", LoadState.FAILED)], 20)
        assert failed() == 0
        Deployment.objects.create(scope="bees", slot="tts", model_version=voice, started_at=NOW, by="ada")
        assert failed() == 1
        for process in ("web a:1", "web b:2"):
            processes.withdraw(process)
        assert failed() == 0


class TestReplay:
    def test_it_tells_when_a_rule_would_have_fired(self) -> None:
        slow = range(20, 40)
        write(
            row(
                occurred_at=NOW - timedelta(hours=1) + timedelta(minutes=minute, seconds=second),
                timings_ms={"pipeline_ms": 3000.0 if minute in slow else 30.0},
            )
            for minute in range(60)
            for second in (0, 10, 20, 30, 40, 50)
        )
        one = AlertRule.objects.get(name="slow-queries")
        found = replay(one, timedelta(hours=1), now=NOW)
        (fired,) = found.fired
        assert fired.until is not None
        # Bad from the 21st minute on, for five; over five minutes after the last slow one.
        assert timedelta(minutes=25) <= fired.since - (NOW - timedelta(hours=1)) <= timedelta(minutes=27)
        assert timedelta(minutes=44) <= fired.until - (NOW - timedelta(hours=1)) <= timedelta(minutes=46)
        assert fired.worst == pytest.approx(3000, rel=0.05)

    def test_it_uses_what_was_read_where_there_is_no_other_history(self, figure: dict[str, Any]) -> None:
        one = rule(for_s=0, clear_threshold=None)
        with pytest.raises(Unprocessable):
            replay(one, timedelta(hours=1), now=tick(9))
        for number, value in enumerate((1, 11, 12, 1)):
            figure["value"] = value
            evaluate(tick(number))
        assert [
            (fired.since, fired.until, fired.worst) for fired in replay(one, timedelta(hours=1), now=tick(9)).fired
        ] == [(tick(1), tick(3), 12)]
        one.threshold = 100
        assert replay(one, timedelta(hours=1), now=tick(9)).fired == ()


def run(*arguments: str) -> str:
    out = StringIO()
    call_command("alerts", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


class TestCommand:
    def test_it_lists_acknowledges_and_closes(self) -> None:
        assert "No alert is open" in run("list")
        alerts.raise_alert("disk", "warning", "nearly full")  # type: ignore[arg-type]
        assert "nearly full" in run("list").replace("\n", " ")
        assert json.loads(run("list", "--json"))[0]["name"] == "disk"
        run("ack", "disk")
        assert AlertEvent.objects.get().acknowledged_by == "system"
        run("resolve", str(AlertEvent.objects.get().pk))
        assert "No alert is open" in run("list")
        assert json.loads(run("list", "--all", "--json"))[0]["name"] == "disk"

    def test_it_silences_a_rule_and_ends_that(self) -> None:
        assert "silenced until" in run("silence", "slow-queries", "--for", "2h")
        until = AlertRule.objects.get(name="slow-queries").silenced_until
        assert until is not None
        assert until > timezone.now() + timedelta(minutes=110)
        run("silence", "slow-queries", "--end")
        assert AlertRule.objects.get(name="slow-queries").silenced_until is None

    def test_it_shows_rules_and_what_can_be_watched(self) -> None:
        shown = run("rules")
        assert "latency_p95 (by stage, variant)" in shown
        assert "disk-full" in shown

    def test_it_replays(self) -> None:
        now = timezone.now()
        write(row(occurred_at=now - timedelta(minutes=n), status=503) for n in range(1, 30) for _ in range(9))
        assert json.loads(run("test", "query-errors", "--since", "1h", "--json"))["fired"][0]["worst"] == 1.0
        assert "would not have fired" in run("test", "slow-queries", "--since", "1h")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["ack", "nothing"],
            ["resolve", "99999999999999999999"],
            ["silence", "nothing"],
            ["test", "nothing"],
            ["test", "disk-full", "--since", "soon"],
            ["silence", "disk-full", "--for", "x"],
            ["test", "disk-full"],
        ],
    )
    def test_it_refuses_nonsense_with_code_2(self, arguments: list[str]) -> None:
        with pytest.raises(CommandError) as refused:
            run(*arguments)
        assert refused.value.returncode == 2


def test_every_rule_that_ships_names_a_runbook_or_a_command() -> None:
    assert all(one.description for one in AlertRule.objects.all())
    assert timedelta(seconds=15) == rules.INTERVAL
