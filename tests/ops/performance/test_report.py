from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.contracts.problems import InvalidRequest
from ops.instrumentation.histogram import BUCKETS, RELATIVE_ERROR, percentile
from ops.models import QueryPerformance
from ops.performance.figures import report_figures, slow_figures, sparkline
from ops.performance.report import parse_by, parse_period, report, slow, stage_split
from ops.performance.rollup import roll_up
from tests.ops.performance.rows import row, write

pytestmark = pytest.mark.django_db

NOW = datetime(2030, 5, 2, 12, 30, 40, tzinfo=UTC)


class TestPeriods:
    @pytest.mark.parametrize(
        ("text", "period"),
        [
            ("90s", timedelta(seconds=90)),
            ("15m", timedelta(minutes=15)),
            (" 24H ", timedelta(hours=24)),
            ("7d", timedelta(days=7)),
            ("2w", timedelta(weeks=2)),
        ],
    )
    def test_it_reads_a_number_and_a_unit(self, text: str, period: timedelta) -> None:
        assert parse_period(text) == period

    @settings(deadline=None)
    @given(st.text(max_size=12))
    def test_it_takes_any_text_for_a_period_or_refuses_it(self, text: str) -> None:
        with contextlib.suppress(InvalidRequest):
            assert timedelta(minutes=1) <= parse_period(text) <= timedelta(days=3650)

    @pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "30s", "9999d", "24 h", "1y", "²h"])
    def test_it_says_what_a_period_looks_like(self, text: str) -> None:
        with pytest.raises(InvalidRequest, match="such as 15m, 24h or 7d"):
            parse_period(text)

    def test_it_names_the_columns_that_there_are(self) -> None:
        assert parse_by("variant, stage,variant") == ("variant", "stage")
        for text in ("", "stage,id; DROP TABLE", "stages"):
            with pytest.raises(InvalidRequest, match="stage, variant, cache"):
                parse_by(text)


class TestReport:
    @pytest.mark.parametrize("rolled_up", [False, True])
    @pytest.mark.parametrize("since", ["5h", "24h", "30d"])
    def test_it_gives_percentiles_within_the_bound_whatever_view_it_reads(self, since: str, rolled_up: bool) -> None:
        write(
            row(
                occurred_at=NOW - timedelta(minutes=2 * n),
                status=503 if n < 10 else 200,
                timings_ms={"pipeline_ms": float(n + 1), "embed_ms": 5.0},
            )
            for n in range(100)
        )
        if rolled_up:
            roll_up(NOW)
        found = report(parse_period(since), now=NOW)
        assert [one.key for one in found.rows] == [("embed", "stable"), ("pipeline", "stable")]
        embed, pipeline = (one.figures for one in found.rows)
        assert (pipeline.n, pipeline.errors, pipeline.error_rate) == (100, 10, 0.1)
        for fraction in (0.5, 0.95, 0.99):
            assert pipeline.percentile(fraction) == pytest.approx(100 * fraction, rel=RELATIVE_ERROR)
            assert embed.percentile(fraction) == pytest.approx(5, rel=RELATIVE_ERROR)
        assert sum(point.figures.n for point in found.rows[1].points) == 100

    def test_it_leaves_out_what_lies_outside_the_period(self) -> None:
        write(row(occurred_at=NOW + timedelta(minutes=minutes)) for minutes in (-62, -30, 1, 30))
        found = report(timedelta(hours=1), now=NOW)
        assert found.start == datetime(2030, 5, 2, 11, 30, tzinfo=UTC)
        assert found.rows[0].figures.n == 1

    def test_it_adds_up_stages_and_variants_that_are_not_asked_apart(self) -> None:
        write(
            row(occurred_at=NOW - timedelta(minutes=9), variant=variant, timings_ms={"pipeline_ms": 10, "ltr_ms": 1})
            for variant in ("stable", "canary", "stable")
        )
        assert [(one.key, one.figures.n) for one in report(timedelta(hours=1), ["stage"], now=NOW).rows] == [
            (("ltr",), 3),
            (("pipeline",), 3),
        ]
        by_variant = report(timedelta(hours=1), ["variant"], now=NOW)
        assert [(one.key, one.figures.n) for one in by_variant.rows] == [(("canary",), 1), (("stable",), 2)]
        only = report(timedelta(hours=1), ["variant"], now=NOW, stage="ltr", variant="canary")
        assert [one.figures.percentile(0.5) for one in only.rows] == [pytest.approx(1, rel=RELATIVE_ERROR)]

    def test_it_counts_by_columns_that_no_view_has(self) -> None:
        write(
            row(occurred_at=NOW - timedelta(minutes=9), cache=cache, key_prefix=prefix, timings_ms={"pipeline_ms": ms})
            for cache, prefix, ms in (("full", None, 1), ("none", "abc", 20), ("none", "abc", 20))
        )
        by_cache = report(timedelta(hours=1), ["cache"], now=NOW)
        assert [(one.key, one.figures.n) for one in by_cache.rows] == [(("full",), 1), (("none",), 2)]
        assert by_cache.rows[1].figures.percentile(0.95) == pytest.approx(20, rel=RELATIVE_ERROR)
        by_key = report(timedelta(days=20), ["key_prefix", "stage"], now=NOW)
        assert [(one.key, one.figures.n) for one in by_key.rows] == [(("", "pipeline"), 1), (("abc", "pipeline"), 2)]

    def test_it_is_empty_without_queries(self) -> None:
        assert report(timedelta(days=1), now=NOW).rows == ()

    def test_it_refuses_a_stage_that_does_not_exist(self) -> None:
        with pytest.raises(InvalidRequest, match="choose of embed"):
            report(timedelta(days=1), now=NOW, stage="lunch")

    @settings(deadline=None)
    @given(
        st.lists(st.integers(0, 1000), min_size=BUCKETS, max_size=BUCKETS), st.sampled_from([0.01, 0.5, 0.9, 0.95, 1.0])
    )
    def test_sql_and_python_compute_the_same_percentile(self, counts: list[int], fraction: float) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT latency_percentile(%s::bigint[], %s)", [counts, fraction])
            assert cursor.fetchone()[0] == pytest.approx(percentile(counts, fraction))


class TestSlow:
    def test_it_shows_the_slowest_first_with_what_their_time_was_spent_on(self) -> None:
        write(
            row(
                occurred_at=NOW - timedelta(minutes=minutes),
                variant=variant,
                timings_ms={"pipeline_ms": ms, "embed_ms": 4, "retrieval_ms": ms / 2},
            )
            for minutes, ms, variant in ((1, 20, "stable"), (2, 80, "stable"), (3, 40, "canary"), (500, 900, "stable"))
        )
        found = slow(timedelta(hours=1), now=NOW, limit=2)
        assert [one.pipeline_ms for one in found] == [80, 40]
        assert stage_split(found[0]) == {"embed": 4, "retrieval": 40, "other": 36}
        assert [one.pipeline_ms for one in slow(timedelta(hours=1), now=NOW, variant="canary")] == [40]
        assert [one.retrieval_ms for one in slow(timedelta(hours=1), now=NOW, stage="retrieval", limit=1)] == [40]
        assert slow(timedelta(hours=1), now=NOW, stage="tts") == []

    def test_a_bar_is_as_long_as_its_query_took(self) -> None:
        rows = [
            QueryPerformance(pipeline_ms=ms, embed_ms=ms / 4, generation_ms=generation_ms)
            for ms, generation_ms in ((40, 60), (50, None))
        ]
        drawn = slow_figures(rows, "pipeline")
        assert [(part.stage, part.bar.x, part.bar.width) for part in drawn[0].parts] == [
            ("embed", "0", "10"),
            ("generation", "10", "60"),
            ("other", "70", "30"),
        ]
        assert [part.bar.width for part in drawn[1].parts] == ["12.5", "37.5"]


class TestFigures:
    def test_bars_share_one_scale_and_columns_stand_where_their_time_is(self) -> None:
        write(
            row(occurred_at=NOW - timedelta(minutes=minutes), variant=variant, timings_ms={"pipeline_ms": ms})
            for minutes, ms, variant in ((50, 10.0, "a"), (1, 10.0, "a"), (1, 20.0, "b"))
        )
        drawn = report_figures(report(timedelta(hours=1), ["variant"], now=NOW))
        a, b = drawn.lines
        assert float(b.high.x) + float(b.high.width) == pytest.approx(100, abs=0.02)
        assert 45 < float(a.low.width) + float(a.high.width) < 55
        assert [column.x for column in a.over_time] == ["10", "59"]
        assert drawn.places == 61

    def test_a_sparkline_has_a_character_for_each_step(self) -> None:
        write(
            row(occurred_at=NOW - timedelta(minutes=minutes), timings_ms={"pipeline_ms": ms})
            for minutes, ms in ((50, 10.0), (1, 80.0))
        )
        found = report(timedelta(hours=1), ["variant"], now=NOW)
        line = sparkline(found, found.rows[0].points)
        assert len(line) == 61
        assert (line[10], line[59], line.strip()[1]) == ("▁", "█", " ")
        assert sparkline(found, ()) == ""


def perf(*arguments: str) -> str:
    out = StringIO()
    call_command("perf", *arguments, stdout=out, stderr=StringIO())
    return out.getvalue()


class TestCommand:
    def test_it_prints_a_table_and_a_plot_where_there_is_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write(row(occurred_at=timezone.now() - timedelta(minutes=5), timings_ms={"pipeline_ms": 12}) for _ in range(3))
        assert "█" not in perf("report", "--since", "1h")
        monkeypatch.setenv("COLUMNS", "140")
        shown = perf("report", "--since", "1h", "--by", "stage,variant")
        assert "█" in shown
        assert "pipeline" in shown
        assert "stable" in shown
        assert "within 4.9%" in shown

    def test_it_prints_json(self) -> None:
        write([row(occurred_at=timezone.now() - timedelta(minutes=5), status=500)])
        (found,) = json.loads(perf("report", "--since", "1h", "--json"))["rows"]
        assert (found["stage"], found["variant"], found["n"], found["error_rate"]) == ("pipeline", "stable", 1, 1.0)
        assert found["p95_ms"] == pytest.approx(12, rel=RELATIVE_ERROR)
        (query,) = json.loads(perf("slow", "--json"))
        assert (query["status"], query["stages_ms"]) == (500, {"other": 12.0})

    def test_the_slowest_are_read_in_a_narrow_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "80")
        slowest = row(
            occurred_at=timezone.now(), timings_ms={"pipeline_ms": 341.7, "embed_ms": 97.5, "retrieval_ms": 99.9}
        )
        write([slowest, row(occurred_at=timezone.now() - timedelta(minutes=5))])
        shown = perf("slow", "--since", "1h")
        assert "embed 97.5 · retrieval 99.9 · other 144.3" in shown
        assert str(slowest.request_id) in shown
        assert shown.index("341.7") < shown.index("12.0")

    def test_it_writes_plots_that_load_nothing(self, tmp_path: Path) -> None:
        write([row(occurred_at=timezone.now() - timedelta(minutes=5), timings_ms={"pipeline_ms": 9, "embed_ms": 2})])
        perf("report", "--since", "1h", "--html", str(tmp_path / "report.html"))
        text = (tmp_path / "report.html").read_text()
        assert "<svg" in text
        assert "embed 2.0 ms" in text
        assert "default-src 'none'" in text.replace("&#x27;", "'")
        assert "http" not in text.replace("http-equiv", "")

    def test_it_says_so_when_there_is_nothing(self) -> None:
        assert "No query was recorded" in perf("report", "--since", "1h")
        assert "No query of the last 1h" in perf("slow", "--since", "1h")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["report", "--since", "yesterday"],
            ["report", "--by", "shoe_size"],
            ["slow", "--limit", "0"],
            ["report", "--html", "/nowhere/at/all.html"],
        ],
    )
    def test_it_refuses_nonsense_with_one_line_and_code_2(self, arguments: list[str]) -> None:
        with pytest.raises(CommandError) as refused:
            perf(*arguments)
        assert refused.value.returncode == 2
        assert "\n" not in str(refused.value)


class TestAdmin:
    @pytest.fixture
    def administrator(self, local: Client) -> Client:
        local.force_login(User.objects.create_superuser("grace", password="a long password for grace"))
        return local

    def test_its_page_shows_tables_and_plots(self, administrator: Client) -> None:
        write([row(occurred_at=timezone.now() - timedelta(minutes=5), timings_ms={"pipeline_ms": 9, "embed_ms": 2})])
        page = administrator.get("/admin/ops/queryperformance/report/", {"since": "1h", "by": "variant"})
        assert page.status_code == 200
        assert "<svg" in page.text
        assert "stable" in page.text
        assert "Report with plots" in administrator.get("/admin/ops/queryperformance/").text

    def test_its_page_says_so_when_there_is_nothing(self, administrator: Client) -> None:
        assert "No query was recorded" in administrator.get("/admin/ops/queryperformance/report/").text

    @pytest.mark.parametrize("asked", [{"since": "soon"}, {"by": "shoe_size"}, {"stage": "lunch"}])
    def test_its_page_says_what_is_wrong(self, administrator: Client, asked: dict[str, Any]) -> None:
        page = administrator.get("/admin/ops/queryperformance/report/", asked)
        assert page.status_code == 400
        assert "plot-warning" in page.text

    def test_its_page_is_for_those_who_may_see_the_rows(self, local: Client) -> None:
        local.force_login(User.objects.create_user("eve", password="a long password for eve", is_staff=True))
        assert local.get("/admin/ops/queryperformance/report/").status_code == 403
