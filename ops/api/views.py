"""Health, metrics and configuration."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiResponse, extend_schema
from prometheus_client.exposition import choose_encoder
from rest_framework.response import Response
from rest_framework.views import APIView

from ops import configuration
from ops.access import Access
from ops.api import serializers
from ops.api.rendering import OneRepresentation
from ops.contracts.env import declared
from ops.contracts.health import State
from ops.contracts.principal import Scope
from ops.figures import basic_figures, full_figures
from ops.health import Finding, HealthMonitor
from ops.instrumentation.processes import registry
from ops.requests import ApiRequest


class LiveView(APIView):
    """Whether the process answers at all; it asks nobody else."""

    required_scopes = {"GET": Access.ANYBODY}
    authentication_classes = ()

    @extend_schema(operation_id="health_live", tags=["health"], responses=serializers.LiveSerializer)
    def get(self, request: ApiRequest) -> Response:
        return Response({"status": "ok"})


class ReadyView(APIView):
    """Whether what the server depends on works."""

    required_scopes = {"GET": Access.ANYBODY}
    authentication_classes = ()

    @extend_schema(
        operation_id="health_ready",
        tags=["health"],
        responses={
            200: serializers.ReadySerializer,
            503: OpenApiResponse(serializers.ReadySerializer, "A dependency failed without which nothing works."),
        },
    )
    def get(self, request: ApiRequest) -> Response:
        """Answers 503 when a critical dependency failed. Details need the scope ``ops:read``."""
        readiness = health_monitor().readiness()
        show = _in_full if request.principal.has_scope(Scope.OPS_READ) else _in_short
        body = {"status": readiness.state.value, "checks": [show(finding) for finding in readiness.findings]}
        if readiness.state is State.FAILED:
            return Response(body, status=503, headers={"Retry-After": "5"})
        return Response(body)


class PrometheusView(APIView):
    """Every metric in the exposition format that the scraper asks for."""

    required_scopes = {"GET": Scope.OPS_READ}
    content_negotiation_class = OneRepresentation

    @extend_schema(operation_id="metrics", tags=["metrics"], responses={(200, "text/plain"): OpenApiTypes.STR})
    def get(self, request: ApiRequest) -> HttpResponse:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return HttpResponse(encode(registry()), content_type=content_type)


class BasicMetricsView(APIView):
    """Counters and stage latencies of all processes, from memory: cheap enough to ask each second."""

    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="metrics_basic", tags=["metrics"], responses=serializers.BasicMetricsSerializer)
    def get(self, request: ApiRequest) -> Response:
        return Response(basic_figures())


class JsonMetricsView(APIView):
    """The machine, the queries and the models, for dashboards."""

    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="metrics_json", tags=["metrics"], responses=serializers.JsonMetricsSerializer)
    def get(self, request: ApiRequest) -> Response:
        return Response(full_figures())


class EnvironmentView(APIView):
    """Every variable with the value in force and where it came from; secrets are hidden."""

    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="config_env", tags=["configuration"], responses=serializers.EnvironmentSerializer)
    def get(self, request: ApiRequest) -> Response:
        loaded = configuration.environment()
        variables = [
            {
                "name": variable.name,
                "value": configuration.shown_value(variable, loaded),
                "origin": loaded.origin(variable.name),
                "is_secret": variable.secret,
                "help": variable.help,
            }
            for variable in declared()
        ]
        return Response({"stage": loaded.stage, "variables": variables})


class ValidationView(APIView):
    """What is missing, out of bounds, contradictory, deprecated, misspelt or risky in the environment."""

    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="config_validate", tags=["configuration"], responses=serializers.ValidationSerializer)
    def get(self, request: ApiRequest) -> Response:
        found = configuration.doubts(configuration.environment())
        valid = all(doubt.level != "error" for doubt in found)
        return Response({"valid": valid, "findings": [asdict(doubt) for doubt in found]})


@cache
def health_monitor() -> HealthMonitor:
    """This process's monitor."""
    return HealthMonitor(timeout_s=settings.OPS_HEALTH_TIMEOUT_S, cache_s=settings.OPS_HEALTH_CACHE_S)


def _in_full(finding: Finding) -> dict[str, Any]:
    return asdict(finding) | {"state": finding.state.value}


def _in_short(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "state": finding.state.value}
