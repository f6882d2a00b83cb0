"""The dashboard: the page, and what it asks for besides the socket."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Scope
from ops.figures import full_figures
from ops.history import RANGES, history
from ops.models import AlertEvent, QueryPerformance

STAGES = ("embed_ms", "retrieval_ms", "feature_ms", "ltr_ms", "fusion_ms")
ALERTS_SHOWN = 20
SLOWEST_SHOWN = 8
DEFAULT_RANGE = "1h"


@requires(GET=Scope.OPS_READ)
@never_cache
def page(request: HttpRequest) -> HttpResponse:
    """The frame; a script fills it."""
    context = {"section": "dashboard", "ranges": list(RANGES), "chosen": DEFAULT_RANGE}
    return render(request, "dashboard/page.html", context)


@requires(GET=Scope.OPS_READ)
@never_cache
def data(request: HttpRequest) -> JsonResponse:
    """``?range=``: the past, open alerts, the slowest queries, models, rollouts, the machine. One answer for all."""
    now = timezone.now()
    past = history(request.GET.get("range", DEFAULT_RANGE), now)
    full = full_figures()
    return JsonResponse(
        {
            "history": past,
            "alerts": [_alert(event) for event in AlertEvent.objects.filter(resolved_at=None)[:ALERTS_SHOWN]],
            "slowest": _slowest(past["at"][0]),
            "models": full["models"],
            "system": full["system"],
        }
    )


def _alert(event: AlertEvent) -> dict[str, Any]:
    return {
        "name": event.name,
        "severity": event.severity,
        "message": event.message,
        "opened_at": event.opened_at.timestamp(),
        "count": event.count,
    }


def _slowest(since: int) -> list[dict[str, Any]]:
    rows = (
        QueryPerformance.objects.filter(occurred_at__gte=datetime.fromtimestamp(since, UTC))
        .exclude(pipeline_ms=None)
        .order_by("-pipeline_ms")
        .values("occurred_at", "request_id", "collection", "variant", "cache", "status", "pipeline_ms", *STAGES)
    )
    return [
        {
            **row,
            "occurred_at": row["occurred_at"].timestamp(),
            "request_id": str(row["request_id"]),
            "trace_url": trace_url(str(row["request_id"])),
        }
        for row in rows[:SLOWEST_SHOWN]
    ]


def trace_url(request_id: str) -> str | None:
    """Where the trace of a request is shown; ``None`` unless ``OPS_TRACE_URL`` says where."""
    template: str | None = settings.OPS_TRACE_URL
    return None if template is None else template.replace("{request_id}", request_id)
