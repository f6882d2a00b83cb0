"""The dashboard's page and the figures behind it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from ops.alerts import raise_alert
from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest
from ops.history import RANGES, history
from ops.instrumentation.histogram import RELATIVE_ERROR
from ops.instrumentation.performance import VOICE_MODE, PerformanceRow, performance_writer, record_query
from ops.models import AlertSeverity

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 26, 12, 0, 30, tzinfo=UTC)


def ask(at: datetime, *, cache: str = "none", status: int = 200, pipeline_ms: float = 10.0) -> str:
    request_id = str(uuid.uuid4())
    record_query(
        PerformanceRow(
            occurred_at=at,
            request_id=request_id,
            query_hmac="0" * 64,
            collection="default",
            variant="stable",
            mode="pgvector",
            cache=cache,
            status=status,
            timings_ms={"pipeline_ms": pipeline_ms, "embed_ms": pipeline_ms / 2},
        )
    )
    return request_id


class TestHistory:
    def test_it_has_a_point_for_each_step_with_or_without_queries(self) -> None:
        for cache, status in (("none", 200), ("full", 200), ("feature", 503)):
            ask(NOW - timedelta(minutes=2), cache=cache, status=status)
        performance_writer().flush()
        past = history("15m", NOW)
        assert (len(past["at"]), past["step_s"], past["at"][-1]) == (15, 60, int(NOW.timestamp()) - 30)
        assert past["queries"] == [0] * 12 + [3] + [0] * 2
        assert past["errors"] == [0] * 12 + [1] + [0] * 2
        assert {state: column[12] for state, column in past["cache"].items()} == {"full": 1, "feature": 1, "none": 1}
        assert list(past["stages"]) == ["embed", "pipeline"]
        assert past["stages"]["pipeline"]["p95_ms"][12] == pytest.approx(10, rel=RELATIVE_ERROR)
        assert past["stages"]["pipeline"]["p95_ms"][11] is None

    def test_a_spoken_question_is_one_query_and_its_times_of_speech_are_drawn(self) -> None:
        at = NOW - timedelta(minutes=2)
        request_id = ask(at, cache="full")
        speech = PerformanceRow(
            occurred_at=at,
            request_id=request_id,
            query_hmac="0" * 64,
            collection="default",
            variant="stable",
            mode=VOICE_MODE,
            cache="none",
            status=200,
            timings_ms={"stt_ms": 200.0, "tts_ms": 90.0},
        )
        performance_writer().add(speech)
        performance_writer().flush()
        past = history("15m", NOW)
        assert {state: column[12] for state, column in past["cache"].items()} == {"full": 1, "feature": 0, "none": 0}
        assert past["queries"][12] == 1
        assert {"stt", "tts"} <= set(past["stages"])

    @pytest.mark.parametrize("name", RANGES)
    def test_every_range_counts_what_lies_in_it_and_nothing_else(self, name: str) -> None:
        length = RANGES[name].length
        ask(NOW - timedelta(seconds=1))
        ask(NOW - length * 2)
        performance_writer().flush()
        past = history(name, NOW)
        assert sum(past["queries"]) == 1
        assert past["queries"][-1] == 1
        assert len(past["at"]) * past["step_s"] == length.total_seconds()

    def test_without_any_query_it_is_empty(self) -> None:
        past = history("1h", NOW)
        assert (sum(past["queries"]), past["stages"]) == (0, {})

    def test_an_unknown_range_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match="15m, 1h"):
            history("1y", NOW)


class TestPage:
    @pytest.fixture
    def operator(self, keys_off: None, local: Client) -> Client:
        return local

    def test_it_holds_no_inline_script_or_style(self, operator: Client) -> None:
        page = operator.get("/dashboard/").content.decode()
        assert "<style" not in page
        assert " style=" not in page
        assert " onclick=" not in page
        assert page.count("<script") == page.count("<script src") + page.count('<script type="module" src')

    def test_it_needs_the_scope(self, keys_on: None, local: Client, key_with: Callable[..., str]) -> None:
        for path in ("/dashboard/", "/dashboard/data"):
            asked = [
                local.get(path, headers=headers).status_code
                for headers in (
                    {},
                    {"X-API-Key": key_with(Scope.QUERY)},
                    {"X-API-Key": key_with(Scope.OPS_READ)},
                )
            ]
            assert asked[0] in {302, 401}
            assert asked[1:] == [403, 200]

    def test_its_data_holds_alerts_slow_queries_and_their_traces(self, operator: Client, settings: Settings) -> None:
        settings.OPS_TRACE_URL = "https://traces.example/{request_id}"
        raise_alert("disk", AlertSeverity.WARNING, "The disk is almost full.")
        ask(timezone.now(), pipeline_ms=5)
        slow = ask(timezone.now(), pipeline_ms=500)
        performance_writer().flush()
        body: dict[str, Any] = operator.get("/dashboard/data?range=15m").json()
        assert [alert["message"] for alert in body["alerts"]] == ["The disk is almost full."]
        assert [query["pipeline_ms"] for query in body["slowest"]] == [500, 5]
        assert body["slowest"][0]["trace_url"] == f"https://traces.example/{slow}"
        assert {model["slot"] for model in body["models"]} >= {"embedder", "ltr", "weights"}
        assert all(model["role"] == "stable" for model in body["models"])

    def test_a_wrong_range_says_which_there_are(self, operator: Client) -> None:
        answer = operator.get("/dashboard/data?range=1y")
        assert answer.status_code == 400
        assert "15m" in answer.content.decode()
