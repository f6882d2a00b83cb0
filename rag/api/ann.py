"""How a collection's vectors are searched, and how far an index is that is being built."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from models_registry.api.queries import checked, principal_of
from ops.api.pagination import Pages
from ops.contracts.principal import Scope
from ops.contracts.problems import NotFound
from rag.ann import configs, indexes
from rag.api.documents.serializers import PageQuerySerializer, PageSerializer
from rag.models import AnnConfig, AnnState
from rag.readable import open_collections


class BuildProgressSerializer(serializers.Serializer[Any]):
    phase = serializers.CharField(help_text="As PostgreSQL calls it.")
    share = serializers.FloatField(allow_null=True, help_text="Of the phase's work, what is done: 0 to 1.")


class AnnConfigSerializer(serializers.ModelSerializer[AnnConfig]):
    """A configuration with what was measured of it."""

    space = serializers.CharField(source="space.slug")
    state = serializers.ChoiceField(choices=AnnState.choices)
    progress = serializers.SerializerMethodField(help_text="While its index is being built.")

    class Meta:
        model = AnnConfig
        fields: tuple[str, ...] = (
            *("id", "space", *configs.SETTINGS, "state", "failure", "progress"),
            *("vectors", "build_ms", "size_bytes"),
            *("recall_at_10", "recall_queries", "recall_source", "search_p50_ms", "search_p95_ms"),
            *("by", "reason", "created_at", "built_at", "measured_at", "activated_at", "retired_at"),
        )

    @extend_schema_field(BuildProgressSerializer(allow_null=True))
    def get_progress(self, config: AnnConfig) -> Any:
        found = indexes.progress(config.index_name) if config.state == AnnState.BUILDING else None
        return None if found is None else BuildProgressSerializer(found).data


class AnnConfigPageSerializer(PageSerializer):
    results = AnnConfigSerializer(many=True)


class NewestFirst(Pages):
    ordering = "-id"


class AnnConfigsView(APIView):
    required_scopes = {"GET": Scope.REGISTRY_READ}

    @extend_schema(
        operation_id="list_ann_configs",
        tags=["registry"],
        parameters=[PageQuerySerializer],
        responses=AnnConfigPageSerializer,
    )
    def get(self, request: Request, slug: str) -> Response:
        """How the collection's vectors are or were searched, newest first; without a live row, exactly."""
        checked(PageQuerySerializer, request)
        collection = open_collections(principal_of(request)).filter(slug=slug).first()
        if collection is None:
            raise NotFound(f"There is no collection {slug!r}.")
        pages = NewestFirst()
        rows = AnnConfig.objects.filter(collection=collection).select_related("space")
        page = pages.paginate_queryset(rows, request, self) or []
        return pages.get_paginated_response(AnnConfigSerializer(page, many=True).data)
