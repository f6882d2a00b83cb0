"""The files for Prometheus and Grafana name only what ZenGlow exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.contracts.metrics import metric_declarations
from zenglow_site import routing, urls  # noqa: F401  (declare the metrics of websockets and of what is called)

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
DASHBOARDS = sorted((DOCKER / "grafana" / "dashboards").glob("*.json"))

OF_OTHERS = {"up", "django_http_responses_total_by_status_total"}
WORD = re.compile(r"\b[a-z_:][a-z0-9_:]*\b(?!\s*\()")
WITH_LABELS = re.compile(r"([a-z][a-z0-9_]*)\{([^}]*)\}")
NOT_NAMES = {"by", "and", "or", "unless", "ignoring", "on", "offset", "without", "vector"}


def queries() -> list[tuple[str, str]]:
    """Every expression with where it stands."""
    found = [(rule["alert"], rule["expr"]) for rule in ALERTS]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text("utf-8"))["panels"]:
            found += [(f"{file.stem}: {panel['title']}", target["expr"]) for target in panel.get("targets", [])]
    return found


def metrics_in(expression: str) -> set[str]:
    """The metric names: what is left without strings, matchers, ranges, grouping labels, functions and numbers."""
    rest = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]', "", expression)
    rest = re.sub(r"\b(by|without|on|ignoring)\s*\([^)]*\)", "", rest)
    return set(WORD.findall(rest)) - NOT_NAMES


def test_the_reader_of_expressions_finds_names_alone() -> None:
    assert metrics_in('sum by (le) (rate(a_total{x="b{c"}[5m])) / ignoring (s) b_seconds > 0.5 and c') == {
        *("a_total", "b_seconds", "c")
    }


@pytest.mark.parametrize(("where", "expression"), queries(), ids=[where for where, _ in queries()])
def test_every_metric_and_label_exists(where: str, expression: str) -> None:
    declared = {name: set(one.labels) for one in metric_declarations() for name in one.sample_names}
    assert metrics_in(expression) - declared.keys() - OF_OTHERS == set()
    for name, matchers in WITH_LABELS.findall(expression):
        if name in declared:
            labels = {matcher.split("=")[0].rstrip("!~ ") for matcher in matchers.split(",") if matcher}
            assert labels <= declared[name] | {"le", "job", "instance"}, name


def test_a_wrong_name_would_be_found() -> None:
    with pytest.raises(AssertionError):
        test_every_metric_and_label_exists("here", "rate(zenglow_quereis_total[5m])")


KINDS = (
    *("zenglow_stage_duration_seconds", "zenglow_stage_failures", "zenglow_queries", "zenglow_cache_lookups"),
    *("zenglow_retrieval_faults", "zenglow_model_call_duration_seconds", "zenglow_model_call_errors"),
    *("zenglow_model_items", "zenglow_model_tokens", "zenglow_models", "zenglow_shadow_comparisons"),
    *("zenglow_queue_messages", "zenglow_queue_oldest_seconds", "zenglow_tasks", "zenglow_task_wait_seconds"),
    *("zenglow_task_duration_seconds", "zenglow_websocket_sessions", "zenglow_websocket_connections"),
    *("zenglow_websocket_messages", "zenglow_rate_limit_refusals", "zenglow_rate_limit_unshared"),
    *("zenglow_outgoing_refused", "zenglow_index_runs", "zenglow_index_runs_open", "zenglow_index_documents"),
    *("zenglow_index_progress_age_seconds", "zenglow_alert_deliveries", "zenglow_batch_rows_lost"),
    *("zenglow_batch_rows_written", "zenglow_statistics_lost", "zenglow_gpus", "zenglow_gpu_utilization_ratio"),
    *("zenglow_gpu_memory_bytes", "zenglow_gpu_temperature_celsius", "zenglow_system_cpu_ratio"),
    *("zenglow_system_memory_bytes", "zenglow_system_disk_bytes", "zenglow_system_swap_bytes", "zenglow_system_load1"),
    *("zenglow_processes", "zenglow_processes_memory_bytes", "zenglow_processes_threads"),
    *("zenglow_processes_open_files", "zenglow_answers", "zenglow_answer_first_token_seconds"),
    *("zenglow_voice_sessions", "zenglow_voice_turns", "zenglow_voice_turn_seconds", "zenglow_source_syncs"),
    "zenglow_mcp_calls",
    *("zenglow_answer_citations_removed", "zenglow_answer_sentences_unsupported"),
)


@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_figure_has_a_panel(name: str) -> None:
    """An operator finds each without writing an expression."""
    (declared,) = [one for one in metric_declarations() if one.name == name]
    drawn = {metric for where, expression in queries() if ": " in where for metric in metrics_in(expression)}
    assert drawn & set(declared.sample_names)


def test_refusals_are_drawn_and_watched() -> None:
    """Whoever is refused for long should be seen by somebody."""
    where = {name for name, expression in queries() if "zenglow_rate_limit_refusals_total" in expression}
    assert where == {"zenglow-queries: Refused for their number", "ZenGlowCallersRefused"}


def test_alerts_say_how_bad_it_is_and_what_to_do() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_dashboards_have_panels_that_do_not_overlap() -> None:
    assert len(DASHBOARDS) == 2
    for file in DASHBOARDS:
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(file.read_text("utf-8"))["panels"]:
            at: dict[str, Any] = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & taken, panel["title"]
            assert all(x < 24 for x, _ in cells)
            taken |= cells


def test_compose_wires_prometheus_and_grafana_to_these_files() -> None:
    services = yaml.safe_load((DOCKER.parent / "docker-compose.yml").read_text("utf-8"))["services"]
    for name in ("prometheus", "grafana"):
        for volume in services[name]["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DOCKER.parent / source).is_dir(), source
    prometheus = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert prometheus["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert prometheus["scrape_configs"][0]["metrics_path"] == "/metrics"
