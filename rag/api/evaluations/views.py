"""``/registry/evaluations``: what was measured, two of them compared, and a new one asked for."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.urls import reverse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import checked, principal_of
from ops.api.pagination import Pages
from ops.api.schema import ProblemSerializer
from ops.contracts.principal import Scope
from ops.contracts.problems import CONTENT_TYPE, Conflict, Forbidden
from rag.api.evaluations.serializers import (
    CompareQuerySerializer,
    ComparisonSerializer,
    EvaluationDetailSerializer,
    EvaluationQueriesSerializer,
    EvaluationSerializer,
    EvaluationsQuerySerializer,
    NewEvaluationSerializer,
)
from rag.evaluation import background
from rag.evaluation.stored import compare_runs, delete, find, query_texts, visible_evaluations
from rag.models import EvaluationRun

TAGS = ["evaluations"]

COLUMNS = {"ranker": "snapshot__ranker_label", "embedder": "snapshot__space__label"}
"""Filters that are named otherwise than their columns."""


UNFINISHED = {(409, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, "It has no figures yet.")}
UNCOMPARABLE = {
    (404, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, "There is no such evaluation."),
    (422, CONTENT_TYPE): OpenApiResponse(ProblemSerializer, "They were measured on different judgements."),
}


class EvaluationPages(Pages):
    ordering = "-id"


class EvaluationsView(ListAPIView[EvaluationRun]):
    required_scopes = {"GET": Scope.REGISTRY_READ, "POST": Scope.REGISTRY_WRITE}
    rate_costs = {"POST": 20.0}
    serializer_class = EvaluationSerializer
    pagination_class = EvaluationPages
    queryset = EvaluationRun.objects.none()

    def get_queryset(self) -> QuerySet[EvaluationRun]:
        query = checked(EvaluationsQuerySerializer, self.request)
        conditions = {
            COLUMNS.get(name, name): value
            for name, value in query.items()
            if name not in {"limit", "cursor"} and value is not None
        }
        runs = visible_evaluations(principal_of(self.request)).defer("per_query", "timings")
        return runs.filter(**conditions)

    @extend_schema(operation_id="list_evaluations", tags=TAGS, parameters=[EvaluationsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Every evaluation, newest first."""
        return super().get(request, *args, **kwargs)

    @extend_schema(
        operation_id="start_evaluation",
        tags=TAGS,
        request=NewEvaluationSerializer,
        responses={202: EvaluationDetailSerializer},
    )
    def post(self, request: Request) -> Response:
        """Measure a collection in the background. `Location` is where its state and progress can be read."""
        body = NewEvaluationSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        given, principal = body.validated_data, principal_of(request)
        if not principal.may_touch(given["collection"]):
            raise Forbidden(f"'{principal.name}' may not touch the collection '{given['collection']}'.")
        run = background.start(given["collection"], principal, label=given["label"])
        address = reverse("registry-evaluation", args=[run.pk])
        return Response(EvaluationDetailSerializer(run).data, status=202, headers={"Location": address})


class EvaluationView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ, "DELETE": Scope.REGISTRY_WRITE}

    @extend_schema(operation_id="get_evaluation", tags=TAGS, responses=EvaluationDetailSerializer)
    def get(self, request: Request, evaluation_id: int) -> Response:
        """One evaluation with everything that decided it. While it runs, `progress` rises."""
        return Response(EvaluationDetailSerializer(find(evaluation_id, principal_of(request))).data)

    @extend_schema(operation_id="delete_evaluation", tags=TAGS, responses={204: None})
    def delete(self, request: Request, evaluation_id: int) -> Response:
        """Forget an evaluation. One that runs is stopped."""
        principal = principal_of(request)
        delete(find(evaluation_id, principal), principal)
        return Response(status=204)


class EvaluationQueriesView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(
        operation_id="list_evaluation_queries", tags=TAGS, responses={200: EvaluationQueriesSerializer} | UNFINISHED
    )
    def get(self, request: Request, evaluation_id: int) -> Response:
        """Every query's value of every measure, by each row."""
        run = find(evaluation_id, principal_of(request))
        if run.is_live:
            raise Conflict(f"Evaluation {run.pk} is {run.state}: it has no figures yet.")
        return Response(EvaluationQueriesSerializer({"results": _queries(run)}).data)


class CompareView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(
        operation_id="compare_evaluations",
        tags=TAGS,
        parameters=[CompareQuerySerializer],
        responses={200: ComparisonSerializer} | UNCOMPARABLE | UNFINISHED,
    )
    def get(self, request: Request) -> Response:
        """How b differs from a, over the same queries: 422 when they were measured on different judgements."""
        query, principal = checked(CompareQuerySerializer, request), principal_of(request)
        comparison = compare_runs(
            find(query["a"], principal),
            find(query["b"], principal),
            row_a=query["row_a"],
            row_b=query["row_b"],
            measure=query["measure"],
        )
        return Response(ComparisonSerializer(comparison).data)


def _queries(run: EvaluationRun) -> list[dict[str, Any]]:
    texts = query_texts(run)
    ids = sorted({query_id for values in run.per_query.values() for query_id in values})
    return [
        {
            "query_id": query_id,
            "text": texts.get(query_id, ""),
            "values": {row: values[query_id] for row, values in run.per_query.items() if query_id in values},
        }
        for query_id in ids
    ]
