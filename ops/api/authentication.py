"""REST framework's authentication: the principal was resolved by the middleware and is handed over."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, CSRFCheck
from rest_framework.request import Request

from ops.api.problems import AUTHENTICATE
from ops.contracts.principal import Principal, PrincipalKind
from ops.contracts.problems import Forbidden


class PrincipalAuthentication(BaseAuthentication):
    """Gives ``request.auth`` the principal. A signed-in person's request must carry the CSRF token."""

    def authenticate(self, request: Request) -> tuple[Any, Principal]:
        django_request = request._request
        principal: Principal = django_request.principal  # type: ignore[attr-defined]
        if principal.kind is PrincipalKind.USER:
            _enforce_csrf(request)
        return django_request.user, principal

    def authenticate_header(self, request: Request) -> str:
        return AUTHENTICATE


class PrincipalAuthenticationScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How the OpenAPI document describes the two headers."""

    target_class = PrincipalAuthentication
    name = ["ApiKeyBearer", "ApiKeyHeader"]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return [
            {"type": "http", "scheme": "bearer", "bearerFormat": "zg_<prefix>_<secret>"},
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ]


def _enforce_csrf(request: Request) -> None:
    """Django's own check, which `APIView.as_view` switches off for the middleware."""
    check = CSRFCheck(_nothing)
    check.process_request(request._request)
    reason = check.process_view(request._request, _nothing, (), {})
    if reason:
        raise Forbidden("The CSRF token is missing or wrong. Send the cookie's value as X-CSRFToken.")


def _nothing(request: HttpRequest) -> HttpResponseBase:
    """Stands for the view, which the check does not call."""
    return HttpResponseBase()
