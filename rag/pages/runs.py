"""Index runs: what was offered, how far it is, what became of it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django_htmx.http import trigger_client_event

from ops.access import requires
from ops.contracts.principal import Principal, Scope
from ops.requests import Request
from rag.models import IndexItem, IndexRun, ItemState, RunState
from rag.readable import visible_items, visible_runs

PAGE_SIZE = 25
ITEMS_SHOWN = 200
"""Most documents of a run that its page lists, failures first."""

PATIENCE = timedelta(seconds=20)
"""How long a run may stand still before its page says that no worker seems to be there."""

LIVE_STATES = (RunState.PENDING, RunState.RUNNING)


@dataclass(frozen=True, slots=True)
class RunView:
    """A run with what its pages show of it."""

    run: IndexRun
    failures: list[IndexItem]

    @property
    def is_live(self) -> bool:
        return self.run.state in LIVE_STATES

    @property
    def stands_still(self) -> bool:
        return self.is_live and timezone.now() - self.run.progressed_at > PATIENCE


def run_view(run: IndexRun, principal: Principal, *, most_failures: int) -> RunView:
    items = visible_items(run, principal)
    failed = items.filter(state=ItemState.FAILED).order_by("id") if run.failed else items.none()
    return RunView(run, list(failed.only("document_id", "source", "reason", "run")[:most_failures]))


@requires(GET=Scope.INGEST)
@never_cache
def run_list(request: HttpRequest) -> HttpResponse:
    """Every visible run, newest first."""
    page = Paginator(visible_runs(cast(Request, request).principal), PAGE_SIZE).get_page(request.GET.get("page"))
    any_live = any(run.state in LIVE_STATES for run in page)
    return render(request, "documents/runs.html", {"section": "documents", "page": page, "any_live": any_live})


@requires(GET=Scope.INGEST)
@never_cache
def run_detail(request: HttpRequest, run_id: uuid.UUID) -> HttpResponse:
    """One run; the page follows it until it is finished."""
    principal = cast(Request, request).principal
    run = get_object_or_404(visible_runs(principal), pk=run_id)
    items = (
        visible_items(run, principal)
        .exclude(state__in=(ItemState.FAILED, ItemState.UNCHANGED, ItemState.PENDING))
        .order_by("id")
    )
    context = {
        "section": "documents",
        "view": run_view(run, principal, most_failures=ITEMS_SHOWN),
        "items": items.only("document_id", "source", "state", "run")[:ITEMS_SHOWN],
        "items_shown": ITEMS_SHOWN,
    }
    return _announced(render(request, "documents/run.html", context), run)


@requires(GET=Scope.INGEST)
@never_cache
def run_card(request: HttpRequest, run_id: uuid.UUID) -> HttpResponse:
    """The run as a small card that asks for itself again until the run is finished."""
    principal = cast(Request, request).principal
    run = get_object_or_404(visible_runs(principal), pk=run_id)
    view = run_view(run, principal, most_failures=20)
    return _announced(render(request, "documents/run_card.html", {"view": view}), run)


def _announced(response: HttpResponse, run: IndexRun) -> HttpResponse:
    """Tell the rest of the page when a run that it followed has ended, so that lists show what is new."""
    return response if run.state in LIVE_STATES else trigger_client_event(response, "zenglow:indexed", {})
