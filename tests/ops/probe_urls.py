"""Views that do one thing each, to try the middleware and the API's rooms on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.db import OperationalError, connection
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import include, path
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ops.access import Access, requires
from ops.contracts.facts import note
from ops.contracts.principal import Scope
from ops.contracts.problems import Conflict, TooManyRequests

FAULTS = {
    "value": ValueError("the secret text of an exception"),
    "database": OperationalError("server closed the connection"),
    "missing": Http404("secret"),
    "conflict": Conflict("Somebody has it already.", holder="ada"),
    "busy": TooManyRequests("Slow down.", retry_after_s=7),
}


class EchoSerializer(serializers.Serializer[Any]):
    text = serializers.CharField(max_length=10)
    numbers = serializers.ListField(child=serializers.IntegerField(min_value=0), required=False)


class EchoView(APIView):
    required_scopes = {"GET": Scope.QUERY, "POST": Scope.INGEST}

    def get(self, request: Request) -> Response:
        return Response({"principal": request.principal.name, "kind": request.principal.kind.value})

    def post(self, request: Request) -> Response:
        serializer = EchoSerializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        return Response(serializer.validated_data)


class ForgottenView(APIView):
    def get(self, request: Request) -> Response:
        return Response({})


class RawView(APIView):
    required_scopes = {"POST": Scope.QUERY}

    def post(self, request: Request) -> Response:
        return Response({"data": request.data})


class FaultyView(APIView):
    required_scopes = {"GET": Scope.QUERY}

    def get(self, request: Request, fault: str) -> Response:
        raise FAULTS[fault]


class DatabaseView(APIView):
    required_scopes = {"GET": Scope.QUERY}

    def get(self, request: Request) -> Response:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        return Response({})


@requires(GET=Scope.QUERY, POST=Scope.INGEST)
def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(f"hello {request.principal.name}")  # type: ignore[attr-defined]


@requires(GET=Scope.QUERY)
def faulty_page(request: HttpRequest, fault: str) -> HttpResponse:
    raise FAULTS[fault]


def forgotten_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("open by accident")


@requires(GET=Access.ANYBODY)
def open_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("open")


@requires(GET=Access.ANYBODY)
def slow_stream(request: HttpRequest) -> StreamingHttpResponse:
    def parts() -> Iterator[bytes]:
        yield b"one "
        time.sleep(0.05)
        yield b"two"

    note(collection="papers")
    return StreamingHttpResponse(parts())


@login_not_required
def sign_in(request: HttpRequest) -> HttpResponse:
    return HttpResponse("sign in")


handler400 = "ops.api.problems.bad_request"
handler403 = "ops.api.problems.forbidden"
handler404 = "ops.api.problems.not_found"
handler500 = "ops.api.problems.server_error"

urlpatterns = [
    path("api/schema/echo", EchoView.as_view()),
    path("rag/echo", EchoView.as_view()),
    path("rag/forgotten", ForgottenView.as_view()),
    path("rag/raw", RawView.as_view()),
    path("rag/database", DatabaseView.as_view()),
    path("rag/faulty/<fault>", FaultyView.as_view()),
    path("page/", page),
    path("page/faulty/<fault>/", faulty_page),
    path("page/forgotten/", forgotten_page),
    path("page/open/", open_page),
    path("page/stream/", slow_stream),
    path("page/sign-in/", sign_in, name="sign-in"),
    path("", include("ops.api.urls")),
]
