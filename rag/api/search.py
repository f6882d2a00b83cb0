"""``POST /rag/query2``."""

from __future__ import annotations

from functools import cache
from typing import cast

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from ops.contracts.principal import Scope
from ops.requests import ApiRequest
from rag.api.search_serializers import SearchRequestSerializer, SearchResponseSerializer
from rag.pipeline.search import SearchRequest, search_json


class Query2View(APIView):
    """Ranked, cited passages with a reason for each score."""

    required_scopes = {"POST": Scope.QUERY}

    @extend_schema(
        operation_id="query2",
        tags=["search"],
        request=SearchRequestSerializer,
        responses={200: SearchResponseSerializer},
    )
    def post(self, request: Request) -> HttpResponse:
        """Search a collection."""
        asked = cast(ApiRequest, request)
        return HttpResponse(
            search_json(
                SearchRequest(**_reads().run_validation(asked.data)),
                asked.principal,
                request_id=asked.request_id,
                headers=asked.headers,
                cookies=asked.COOKIES,
            ),
            content_type="application/json",
        )


@cache
def _reads() -> SearchRequestSerializer:
    """One for all requests: to make it takes longer than to read by it, and reading leaves nothing in it."""
    return SearchRequestSerializer()
