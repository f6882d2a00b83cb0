"""The routes of operations, called as their users call them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape

import pytest
from django.conf import settings as django_settings
from django.test import Client
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from pytest_django.fixtures import Settings

from ops.api import serializers
from ops.contracts.env import declared, load
from ops.contracts.inventory import model_inventory, register_model_inventory
from ops.contracts.metrics import metric_declarations
from ops.contracts.principal import Scope
from ops.contracts.stage import stage

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.ops.probe_urls"), pytest.mark.usefixtures("keys_on")]


@pytest.fixture
def operator(remote: Client, key_with: Callable[..., str]) -> Client:
    """A program with the scope ``ops:read``, and nothing else."""
    remote.defaults["HTTP_AUTHORIZATION"] = f"Bearer {key_with(Scope.OPS_READ)}"
    return remote


class TestMetrics:
    def test_the_exposition_parses_and_holds_every_declared_metric(self, operator: Client) -> None:
        with stage("embed"):
            pass
        response = operator.get("/metrics")
        assert response.headers["Content-Type"].startswith("text/plain")
        families = {family.name: family for family in parse_text(response.text)}
        assert {declaration.name for declaration in metric_declarations()} <= set(families)
        buckets = [
            sample
            for sample in families["zenglow_stage_duration_seconds"].samples
            if sample.name.endswith("_bucket") and sample.labels["stage"] == "embed"
        ]
        assert [sample.labels["le"] for sample in buckets][:2] == ["0.0005", "0.001"]
        assert buckets[-1].labels["le"] == "+Inf"

    def test_the_exposition_comes_in_the_format_that_is_asked_for(self, operator: Client) -> None:
        response = operator.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert list(parse_openmetrics(response.text))

    def test_the_basic_figures_follow_their_schema(self, operator: Client) -> None:
        with stage("fusion"):
            pass
        body = operator.get("/metrics/basic").json()
        assert serializers.BasicMetricsSerializer(data=body).is_valid(raise_exception=True)
        assert body["stages"]["fusion"]["count"] >= 1

    def test_the_full_figures_follow_their_schema(self, operator: Client) -> None:
        body = operator.get("/metrics/json").json()
        assert serializers.JsonMetricsSerializer(data=body).is_valid(raise_exception=True)
        assert set(body) == {"system", "query_stats", "models"}
        assert set(body["query_stats"]["cache_hits"]) == {"full", "feature", "none"}
        assert body["system"]["memory"]["total_bytes"] > body["system"]["processes"][0]["memory_bytes"] > 0

    def test_what_is_deployed_comes_from_who_registered_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("ops.contracts.inventory._sources", [])
        register_model_inventory(lambda: [{"slot": "ltr"}])
        assert model_inventory() == [{"slot": "ltr"}]


class TestConfiguration:
    def test_it_shows_every_variable_and_no_secret(self, operator: Client, settings: Settings) -> None:
        secrets = {variable.name: f"hidden-{variable.name}" for variable in declared() if variable.secret}
        urls = {
            name: f"postgres://ada:{value}@db/z" if name.endswith("_URL") else value for name, value in secrets.items()
        }
        settings.ENVIRONMENT = load(urls | {"REDIS_HOST": "h", "REDIS_PORT": "1"}, variables=declared())
        response = operator.get("/config/env")
        rows = {row["name"]: row for row in response.json()["variables"]}
        assert set(rows) == {variable.name for variable in declared()}
        assert "hidden-" not in response.text
        assert rows["REDIS_HOST"]["origin"] == "environment"

    def test_it_lists_what_is_doubtful(self, operator: Client, settings: Settings) -> None:
        settings.ENVIRONMENT = load(
            {"ZENGLOW_ALLOW_ANONYMOUS": "1", "FUSION_LTR_WEIGHT": "1", "RAG_TOPK_MAX": "1"}, variables=declared()
        )
        body = operator.get("/config/validate").json()
        assert body["valid"]
        assert {(finding["code"], finding["name"]) for finding in body["findings"]} == {
            ("deprecated", "FUSION_LTR_WEIGHT"),
            ("unknown", "RAG_TOPK_MAX"),
            ("risky", "ZENGLOW_ALLOW_ANONYMOUS"),
        }


class TestSchema:
    def test_every_operation_tells_its_scope_and_its_problems(self, operator: Client) -> None:
        response = operator.get("/api/schema/?format=json")
        assert response.status_code == 200
        document = json.loads(response.content)
        assert document["openapi"].startswith("3.1")
        operation = document["paths"]["/metrics/basic"]["get"]
        assert "`ops:read`" in operation["description"]
        for status in ("400", "401", "403", "429", "503"):
            content = operation["responses"][status]["content"]
            assert list(content) == ["application/problem+json"]
            assert content["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert {"ApiKeyBearer": []} in operation["security"]
        assert {"ApiKeyHeader": []} in operation["security"]
        assert not any(document["paths"]["/health/live"]["get"].get("security", []))
        posting = document["paths"]["/rag/echo"]["post"]["responses"]
        assert {"413", "415"} <= set(posting)

    def test_the_page_of_the_schema_is_shown(self, operator: Client) -> None:
        response = operator.get("/api/docs/")
        assert response.status_code == 200
        # No script stands in the page itself: the policy forbids it.
        [script] = re.findall(r'<script src="(/api/docs/[^"]*)">', response.text)
        assert "/api/schema/" in operator.get(unescape(script)).text

    def test_a_stranger_is_led_to_sign_in(self, remote: Client) -> None:
        assert remote.get("/api/docs/").status_code == 302
        assert remote.get("/api/schema/").status_code == 401


def test_liveness_needs_no_key_and_no_store(remote: Client, django_assert_num_queries: object) -> None:
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = remote.get("/health/live", headers={"authorization": "Bearer zg_wrong"})
    assert response.json() == {"status": "ok"}
    assert django_settings.ENABLE_API_KEYS
