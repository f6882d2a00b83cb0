"""``/evaluations/``: what was measured, one measurement with its plots, and two of them compared."""

from __future__ import annotations

from typing import cast

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from ops.access import requires
from ops.contracts.principal import Scope
from ops.contracts.problems import Forbidden, InvalidRequest, Problem
from ops.requests import Request
from rag.evaluation import background
from rag.evaluation.figures import comparison_figures, figures_of
from rag.evaluation.stored import DEFAULT_MEASURE, DEFAULT_ROW, compare_runs, find, visible_evaluations
from rag.models import Collection, EvaluationState
from rag.pages.runs import PATIENCE
from rag.readable import open_collections

PAGE_SIZE = 25
MAX_ID_DIGITS = 18
LABEL_CHARACTERS = 200


@requires(GET=Scope.REGISTRY_READ, POST=Scope.REGISTRY_WRITE)
@never_cache
def evaluation_list(request: HttpRequest) -> HttpResponse:
    """Every evaluation, newest first; a POST asks for a new one."""
    if request.method == "POST":
        return _start(cast(Request, request))
    return _list(cast(Request, request))


@requires(GET=Scope.REGISTRY_READ)
@never_cache
def evaluation_detail(request: HttpRequest, run_id: int) -> HttpResponse:
    """One evaluation; the page follows it until it is finished."""
    run = find(run_id, cast(Request, request).principal)
    context = {
        "section": "evaluations",
        "run": run,
        "stands_still": run.is_live and timezone.now() - run.progressed_at > PATIENCE,
        "figures": figures_of(run) if run.state == EvaluationState.FINISHED else None,
    }
    return render(request, "evaluations/detail.html", context)


@requires(GET=Scope.REGISTRY_READ)
@never_cache
def evaluation_compare(request: HttpRequest) -> HttpResponse:
    """Two evaluations, ``?run=…&run=…``: how the later one differs from the earlier one."""
    principal = cast(Request, request).principal
    try:
        a, b = (find(run_id, principal) for run_id in _chosen(request))
        comparison = compare_runs(a, b)
    except Problem as problem:
        return _list(cast(Request, request), problem)
    context = {"section": "evaluations", "a": a, "b": b, "figures": comparison_figures(comparison)}
    return render(request, "evaluations/compare.html", context)


def _chosen(request: HttpRequest) -> list[int]:
    """The two ids of the address, the earlier first. Raises `InvalidRequest`."""
    texts = set(request.GET.getlist("run"))
    if len(texts) != 2 or not all(text.isdecimal() and len(text) <= MAX_ID_DIGITS for text in texts):
        raise InvalidRequest("Choose two evaluations of the list to compare them.")
    return sorted(map(int, texts))


def _start(request: Request) -> HttpResponse:
    slug, label = request.POST.get("collection", ""), request.POST.get("label", "").strip()
    try:
        if not request.principal.may_touch(slug):
            raise Forbidden(f"The collection '{slug}' is not open to you.")
        if len(label) > LABEL_CHARACTERS:
            raise InvalidRequest(f"A label has at most {LABEL_CHARACTERS} characters.")
        run = background.start(slug, request.principal, label=label)
    except Problem as problem:
        return _list(request, problem)
    return redirect("evaluation", run.pk)


def _list(request: Request, problem: Problem | None = None) -> HttpResponse:
    runs = visible_evaluations(request.principal).defer("per_query", "timings")
    page = Paginator(runs, PAGE_SIZE).get_page(request.GET.get("page"))
    rows = [(run, run.metrics[DEFAULT_ROW][DEFAULT_MEASURE] if DEFAULT_ROW in run.metrics else None) for run in page]
    judged: list[Collection] = list(open_collections(request.principal).filter(judged_queries__isnull=False).distinct())
    context = {
        "section": "evaluations",
        "page": page,
        "rows": rows,
        "measure": DEFAULT_MEASURE,
        "any_live": any(run.is_live for run in page),
        "judged": judged,
        "problem": problem,
    }
    return render(request, "evaluations/list.html", context, status=problem.status if problem else 200)
