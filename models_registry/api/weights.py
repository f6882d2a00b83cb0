"""``/rag/fusion/weights``: what the scores are fused with, changed without a restart and never lost."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import deployments, weights
from models_registry.api.preconditions import etag_of, precondition_of
from models_registry.api.queries import checked, principal_of
from models_registry.api.serializers import (
    CollectionQuerySerializer,
    DeployedWeightsSerializer,
    NewWeightsSerializer,
    RemovalSerializer,
    RollbackSerializer,
    WeightsHistoryQuerySerializer,
)
from models_registry.models import Deployment, Role, Slot
from models_registry.scopes import readable_scope
from ops.api.pagination import Pages
from ops.contracts.principal import Scope
from ops.contracts.problems import NotFound

IF_MATCH = OpenApiParameter(
    "If-Match", str, OpenApiParameter.HEADER, required=True, description="The ETag of the last GET, or `*`."
)
TAGS = ["fusion weights"]


class WeightsView(APIView):
    """The weights that answer, everywhere or in one collection."""

    required_scopes = {"GET": Scope.REGISTRY_READ, "PUT": Scope.REGISTRY_WRITE, "DELETE": Scope.REGISTRY_WRITE}

    @extend_schema(
        operation_id="get_fusion_weights",
        tags=TAGS,
        parameters=[CollectionQuerySerializer],
        responses=DeployedWeightsSerializer,
    )
    def get(self, request: Request) -> Response:
        """The live weights. A collection without weights of its own answers with the global ones."""
        return _answer(_scope(request))

    @extend_schema(
        operation_id="put_fusion_weights",
        tags=TAGS,
        parameters=[CollectionQuerySerializer, IF_MATCH],
        request=NewWeightsSerializer,
        responses=DeployedWeightsSerializer,
    )
    def put(self, request: Request) -> Response:
        """Make a new version and put it live. 428 without If-Match, 412 when something else is live by now."""
        scope, principal = _scope(request), principal_of(request)
        precondition = precondition_of(request)
        body = NewWeightsSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        proposed = weights.propose(body.validated_data["ltr"], body.validated_data["conceptual"])
        reason = body.validated_data["reason"]
        weights.change(proposed, scope, by=principal, reason=reason, precondition=precondition)
        return _answer(scope)

    @extend_schema(
        operation_id="delete_fusion_weights",
        tags=TAGS,
        parameters=[CollectionQuerySerializer, IF_MATCH],
        request=RemovalSerializer,
        responses=DeployedWeightsSerializer,
    )
    def delete(self, request: Request) -> Response:
        """End a collection's own weights; the global ones answer there again and are returned."""
        scope, precondition = _scope(request), precondition_of(request)
        body = RemovalSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        deployments.deactivate(
            Slot.WEIGHTS,
            scope,
            by=principal_of(request),
            reason=body.validated_data["reason"],
            precondition=precondition,
        )
        return _answer(scope)


class HistoryPages(Pages):
    ordering = "-id"


class WeightsHistoryView(ListAPIView[Deployment]):
    """Which weights were live when, by whom and why."""

    required_scopes = {"GET": Scope.REGISTRY_READ}
    serializer_class = DeployedWeightsSerializer
    pagination_class = HistoryPages
    queryset = Deployment.objects.none()

    def get_queryset(self) -> QuerySet[Deployment]:
        collection = checked(WeightsHistoryQuerySerializer, self.request).get("collection")
        rows = deployments.history(Slot.WEIGHTS, readable_scope(collection, principal_of(self.request)))
        return rows.filter(role=Role.STABLE)

    @extend_schema(operation_id="list_fusion_weights_history", tags=TAGS, parameters=[CollectionQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Newest first. A collection's history is that of its own weights."""
        return super().get(request, *args, **kwargs)


class WeightsRollbackView(APIView):
    """One step back, or back to a version."""

    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    @extend_schema(
        operation_id="roll_back_fusion_weights",
        tags=TAGS,
        parameters=[CollectionQuerySerializer, IF_MATCH],
        request=RollbackSerializer,
        responses=DeployedWeightsSerializer,
    )
    def post(self, request: Request) -> Response:
        """Put back what was live before the last change, or the named version. A second rollback undoes the first."""
        scope, principal = _scope(request), principal_of(request)
        precondition = precondition_of(request)
        body = RollbackSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        number, reason = body.validated_data.get("version"), body.validated_data["reason"]
        if number is None:
            deployments.rollback(Slot.WEIGHTS, scope, by=principal, reason=reason, precondition=precondition)
        else:
            version = weights.find_version(number)
            deployments.activate(Slot.WEIGHTS, version, scope, by=principal, reason=reason, precondition=precondition)
        return _answer(scope)


def _scope(request: Request) -> str:
    return readable_scope(checked(CollectionQuerySerializer, request).get("collection"), principal_of(request))


def _answer(scope: str) -> Response:
    deployment = deployments.effective(Slot.WEIGHTS, scope)
    if deployment is None:
        raise NotFound("No fusion weights are live yet. `manage.py seed` provides the first.")
    response = Response(DeployedWeightsSerializer(deployment).data)
    response["ETag"] = etag_of(deployment)
    return response
