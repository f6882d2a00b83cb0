"""``/health/models``: every registered model, and in which processes it is ready."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import redis
from django.db import Error as DatabaseFault
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import loading, processes, serving
from models_registry.api.queries import principal_of
from models_registry.api.serializers import ModelsHealthSerializer
from models_registry.live import LiveModel, view
from models_registry.loading import LoadState
from models_registry.models import ModelVersion
from models_registry.processes import ProcessReport
from models_registry.scopes import visible_scopes
from models_registry.statistics import model_figures
from models_registry.versions import newest_or
from ops.contracts.principal import Principal, Scope

WORST_FIRST = (LoadState.FAILED, LoadState.LOADING, LoadState.DRAINING, LoadState.READY, LoadState.UNLOADED)


class ModelsHealthView(APIView):
    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="health_models", tags=["health"], responses=ModelsHealthSerializer)
    def get(self, request: Request) -> Response:
        """Every model by its live, loaded and newest versions, with the state of each in every process."""
        places = _live_places(principal_of(request))
        reported, sees_all = _reports()
        held: dict[str, list[dict[str, object]]] = {}
        for process in reported:
            for report in process.models:
                facts = asdict(report) | {"process": process.name, "role": process.role}
                held.setdefault(str(facts.pop("label")), []).append(facts)
        registered = _registered(held.keys() | places.keys())
        labels = sorted(held.keys() | places.keys() | registered.keys())
        kinds = {label: live[0].slot.value for label, live in places.items()}
        figures = model_figures((kind, label) for label, kind in kinds.items()) or {}
        models = [
            _entry(label, places.get(label, []), held.get(label, []), registered.get(label))
            | {"statistics": figures.get(label)}
            for label in labels
        ]
        own = processes.own_name("")
        answered = next((one.name for one in reported if one.name.endswith(own)), own.strip())
        body = {"process": answered, "sees_all_processes": sees_all, "models": models}
        return Response(ModelsHealthSerializer(body).data)


def _reports() -> tuple[list[ProcessReport], bool]:
    """What all processes hold, this one as it is now; whether the others could be asked."""
    own = processes.own_name("")
    mine = ProcessReport(own.strip(), "web", 0.0, loading.reports())
    try:
        others = processes.all_reports()
    except (redis.RedisError, OSError):
        return [mine], False
    told = next((one for one in others if one.name.endswith(own)), mine)
    now = ProcessReport(told.name, told.role, 0.0, loading.reports())
    return [now, *(one for one in others if not one.name.endswith(own))], True


def _registered(labels: Iterable[str]) -> dict[str, ModelVersion]:
    """The versions of these labels, and the newest of each model; nothing while the database is away."""
    try:
        return {str(version): version for version in newest_or(labels)}
    except DatabaseFault:
        return {}


def _live_places(principal: Principal) -> dict[str, list[LiveModel]]:
    scopes = visible_scopes(principal)
    places: dict[str, list[LiveModel]] = {}
    for live in view.all():
        if isinstance(live, LiveModel) and (scopes is None or live.scope in scopes):
            places.setdefault(live.label, []).append(live)
    return places


def _entry(
    label: str, places: list[LiveModel], held: list[dict[str, object]], version: ModelVersion | None
) -> dict[str, object]:
    states = {report["state"] for report in held}
    waits = any(serving.starts_on_demand(live.slot, live.provider) for live in places)
    return {
        "model": label,
        "kind": version.model.kind if version else None,
        "status": version.status if version else None,
        "status_detail": version.status_detail if version else "",
        "slots": sorted({live.slot.value for live in places}),
        "scopes": sorted({live.scope for live in places}),
        "state": next(
            (state for state in WORST_FIRST if state in states), LoadState.IDLE if waits else LoadState.UNLOADED
        ),
        "processes": held,
    }
