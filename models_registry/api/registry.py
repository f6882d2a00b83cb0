"""``/registry/*``, read-only: what there is, and what is or was live."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry import deployments, versions
from models_registry.api.queries import checked, principal_of
from models_registry.api.serializers import (
    DeploymentSerializer,
    DeploymentsQuerySerializer,
    ModelDetailSerializer,
    ModelSerializer,
    ModelsQuerySerializer,
    VersionSerializer,
    VersionsQuerySerializer,
)
from models_registry.models import Deployment, Model, ModelVersion
from models_registry.scopes import visible_scopes
from ops.api.pagination import Pages
from ops.contracts.principal import Scope
from ops.contracts.problems import NotFound

TAGS = ["registry"]


class ModelPages(Pages):
    ordering = "name"


class VersionPages(Pages):
    ordering = "-number"


class DeploymentPages(Pages):
    ordering = "-id"


class ModelsView(ListAPIView[Model]):
    required_scopes = {"GET": Scope.REGISTRY_READ}
    serializer_class = ModelSerializer
    pagination_class = ModelPages
    queryset = Model.objects.none()

    def get_queryset(self) -> QuerySet[Model]:
        return versions.overview().filter(**_without_paging(checked(ModelsQuerySerializer, self.request)))

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
        checked(VersionsQuerySerializer, request)
        model = versions.overview().filter(name=name).first()
        if model is None:
            raise NotFound(f"There is no model '{name}'.")
        pages = VersionPages()
        page = pages.paginate_queryset(ModelVersion.objects.filter(model=model), request, self) or []
        listed = pages.get_paginated_response(VersionSerializer(page, many=True).data).data
        return Response(ModelSerializer(model).data | {"versions": listed})


class DeploymentsView(ListAPIView[Deployment]):
    required_scopes = {"GET": Scope.REGISTRY_READ}
    serializer_class = DeploymentSerializer
    pagination_class = DeploymentPages
    queryset = Deployment.objects.none()

    def get_queryset(self) -> QuerySet[Deployment]:
        query = _without_paging(checked(DeploymentsQuerySerializer, self.request))
        moment = query.pop("at", None)
        rows = deployments.history() if moment is None else deployments.live_at(moment)
        scopes = visible_scopes(principal_of(self.request))
        if scopes is not None:
            rows = rows.filter(scope__in=scopes)
        return rows.filter(**query)

    @extend_schema(operation_id="list_deployments", tags=TAGS, parameters=[DeploymentsQuerySerializer])
    def get(self, request: Request, *args: object, **kwargs: object) -> Response:
        """Everything that was ever live, newest first; with `at`, what was live at that time."""
        return super().get(request, *args, **kwargs)


def _without_paging(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name not in {"limit", "cursor"}}
