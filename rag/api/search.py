"""``POST /rag/query2``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from ops import requests
from ops.api.quick import QuickView
from ops.contracts.principal import Scope
from rag.api.search_serializers import SearchRequestSerializer, SearchResponseSerializer
from rag.pipeline.search import SearchRequest, search_json


class Query2View(QuickView):
    """Ranked, cited passages with a reason for each score."""

    required_scopes = {"POST": Scope.QUERY}
    serializer = SearchRequestSerializer

    @extend_schema(
        operation_id="query2",
        tags=["search"],
        request=SearchRequestSerializer,
        responses={200: SearchResponseSerializer},
    )
    def post(self, request: Request) -> HttpResponse:
        """Search a collection."""
        return super().post(request)

    def answer(self, request: requests.Request, asked: Mapping[str, Any]) -> HttpResponse:
        return HttpResponse(
            search_json(
                SearchRequest(**asked),
                request.principal,
                request_id=request.request_id,
                headers=request.headers,
                cookies=request.COOKIES,
            ),
            content_type="application/json",
        )
