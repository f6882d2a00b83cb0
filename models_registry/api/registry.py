"""``/registry/*``: what there is, what is or was live, and changing it."""

from __future__ import annotations

from typing import Any

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import deployments, past, versions
from models_registry.api.lists import RowsView, without_paging
from models_registry.api.queries import checked, principal_of
from models_registry.api.serializers import (
    CollectionQuerySerializer,
    DeploymentSerializer,
    DeploymentsQuerySerializer,
    ModelDetailSerializer,
    ModelSerializer,
    ModelsQuerySerializer,
    PastQuerySerializer,
    PastSerializer,
    PromotionSerializer,
    RefreshedSerializer,
    SlotRollbackSerializer,
    VersionSerializer,
    VersionsQuerySerializer,
)
from models_registry.discovery.refresh import refresh
from models_registry.models import Deployment, Model, ModelVersion, Slot
from models_registry.scopes import readable_scope
from ops.api.pagination import Pages
from ops.contracts.principal import Scope
from ops.contracts.problems import InvalidRequest, NotFound

TAGS = ["registry"]


class ModelPages(Pages):
    ordering = "name"


class VersionPages(Pages):
    ordering = "-number"


class DeploymentPages(Pages):
    ordering = "-id"


class ModelsView(RowsView[Model]):
    required_scopes = {"GET": Scope.REGISTRY_READ}
    query_serializer_class = ModelsQuerySerializer
    serializer_class = ModelSerializer
    pagination_class = ModelPages
    queryset = Model.objects.none()

    def rows(self, query: dict[str, Any]) -> QuerySet[Model]:
        models, live, search = versions.overview(), query.pop("live"), query.pop("search", "")
        if live is not None:
            deployed = Deployment.objects.filter(ended_at=None, model_version__model=OuterRef("pk"))
            models = models.filter(Exists(deployed) if live else ~Exists(deployed))
        if search:
            models = models.filter(Q(name__icontains=search) | Q(description__icontains=search))
        return models.filter(**query)

    @extend_schema(operation_id="list_models", tags=TAGS, parameters=[ModelsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Every model by name, with its newest version and where it is live."""
        return super().get(request, *args, **kwargs)


class ModelView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(
        operation_id="get_model", tags=TAGS, parameters=[VersionsQuerySerializer], responses=ModelDetailSerializer
    )
    def get(self, request: Request, name: str) -> Response:
        """One model with a page of its versions, newest first."""
        query = without_paging(checked(VersionsQuerySerializer, request))
        model = versions.overview().filter(name=name).first()
        if model is None:
            raise NotFound(f"There is no model '{name}'.")
        pages = VersionPages()
        page = pages.paginate_queryset(ModelVersion.objects.filter(model=model, **query), request, self) or []
        listed = pages.get_paginated_response(VersionSerializer(page, many=True).data).data
        return Response(ModelSerializer(model).data | {"versions": listed})


class DeploymentsView(RowsView[Deployment]):
    required_scopes = {"GET": Scope.REGISTRY_READ}
    query_serializer_class = DeploymentsQuerySerializer
    serializer_class = DeploymentSerializer
    pagination_class = DeploymentPages
    queryset = Deployment.objects.none()
    is_scoped = True

    def rows(self, query: dict[str, Any]) -> QuerySet[Deployment]:
        moment = query.pop("at", None)
        rows = deployments.history() if moment is None else deployments.live_at(moment)
        return rows.filter(**query)

    @extend_schema(operation_id="list_deployments", tags=TAGS, parameters=[DeploymentsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Everything that was ever live, newest first; with `at`, what was live at that time."""
        return super().get(request, *args, **kwargs)


class PastView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(operation_id="what_was_live", tags=TAGS, parameters=[PastQuerySerializer], responses=PastSerializer)
    def get(self, request: Request) -> Response:
        """Weights, models and vector indexes that answered at a moment, with who put them live and why."""
        moment = checked(PastQuerySerializer, request).get("at") or timezone.now()
        found = past.what_was_live(moment, principal_of(request))
        return Response(PastSerializer({"at": moment, "live": found}).data)


class PromotionView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    @extend_schema(
        operation_id="promote_model_version",
        tags=TAGS,
        parameters=[CollectionQuerySerializer],
        request=PromotionSerializer,
        responses=DeploymentSerializer,
    )
    def post(self, request: Request) -> Response:
        """Put a version live, everywhere or in one collection. 422 when it does not work; what is live then stays."""
        principal = principal_of(request)
        scope = readable_scope(checked(CollectionQuerySerializer, request).get("collection"), principal)
        body = PromotionSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        version = versions.find_version(body.validated_data["version"])
        row = deployments.activate(
            deployments.slot_of(version),
            version,
            scope,
            by=principal,
            reason=body.validated_data["reason"],
            force=body.validated_data["force"],
        )
        return Response(DeploymentSerializer(row).data)


class SlotRollbackView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    @extend_schema(
        operation_id="roll_back_model_version",
        tags=TAGS,
        parameters=[CollectionQuerySerializer],
        request=SlotRollbackSerializer,
        responses=DeploymentSerializer,
    )
    def post(self, request: Request) -> Response:
        """Put back what was live in a slot before the last change; answers with what is live there now."""
        principal = principal_of(request)
        scope = readable_scope(checked(CollectionQuerySerializer, request).get("collection"), principal)
        body = SlotRollbackSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        slot = Slot(body.validated_data["slot"])
        if slot == Slot.WEIGHTS:
            fault = "Weights go back by POST /rag/fusion/weights/rollback, which asks for If-Match."
            raise InvalidRequest(fault, errors={"slot": fault})
        row = deployments.rollback(slot, scope, by=principal, reason=body.validated_data["reason"])
        row = row or deployments.effective(slot, scope)
        if row is None:
            raise NotFound(f"No {slot.label} is live.")
        return Response(DeploymentSerializer(row).data)


class RefreshView(APIView):
    required_scopes = {"POST": Scope.REGISTRY_WRITE}

    @extend_schema(operation_id="refresh_models", tags=TAGS, request=None, responses=RefreshedSerializer)
    def post(self, request: Request) -> Response:
        """Look for models now at every source that the settings name. It adds and marks missing, and never deletes."""
        return Response(RefreshedSerializer({"sources": refresh(principal_of(request))}).data)
