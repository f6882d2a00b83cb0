"""``POST /rag/query2``."""

from __future__ import annotations

from typing import cast

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ops.contracts.principal import Scope
from ops.requests import ApiRequest
from rag.api.search_serializers import SearchRequestSerializer, SearchResponseSerializer
from rag.pipeline.search import search


class Query2View(APIView):
    """Ranked, cited passages with a reason for each score."""

    required_scopes = {"POST": Scope.QUERY}

    @extend_schema(
        operation_id="query2",
        tags=["search"],
        request=SearchRequestSerializer,
        responses={200: SearchResponseSerializer},
    )
    def post(self, request: Request) -> Response:
        """Search a collection."""
        serializer = SearchRequestSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        asked = cast(ApiRequest, request)
        return Response(
            search(
                serializer.to_request(),
                asked.principal,
                request_id=asked.request_id,
                headers=asked.headers,
                cookies=asked.COOKIES,
            )
        )
