"""``/health/models``: which models are live, and whether this process has them ready."""

from __future__ import annotations

import os
from dataclasses import asdict

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import principal_of
from models_registry.api.serializers import ModelsHealthSerializer
from models_registry.live import LiveModel, view
from models_registry.loading import report_of, reports
from models_registry.scopes import visible_scopes
from models_registry.statistics import model_figures
from ops.contracts.principal import Principal, Scope


class ModelsHealthView(APIView):
    required_scopes = {"GET": Scope.OPS_READ}

    @extend_schema(operation_id="health_models", tags=["health"], responses=ModelsHealthSerializer)
    def get(self, request: Request) -> Response:
        """Every live model version with its state in the process that answers; a model loads at its first use."""
        places = _live_places(principal_of(request))
        labels = sorted(places.keys() | {report.label for report in reports()})
        kinds = {label: live[0].slot.value for label, live in places.items()}
        figures = model_figures((kind, label) for label, kind in kinds.items()) or {}
        models = [_entry(label, places.get(label, [])) | {"statistics": figures.get(label)} for label in labels]
        return Response(ModelsHealthSerializer({"process_id": os.getpid(), "models": models}).data)


def _live_places(principal: Principal) -> dict[str, list[LiveModel]]:
    scopes = visible_scopes(principal)
    places: dict[str, list[LiveModel]] = {}
    for live in view.all():
        if isinstance(live, LiveModel) and (scopes is None or live.scope in scopes):
            places.setdefault(live.label, []).append(live)
    return places


def _entry(label: str, places: list[LiveModel]) -> dict[str, object]:
    facts = asdict(report_of(label))
    facts["model"] = facts.pop("label")
    return facts | {
        "slots": sorted({live.slot.value for live in places}),
        "scopes": sorted({live.scope for live in places}),
    }
