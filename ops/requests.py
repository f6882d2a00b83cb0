"""What our middleware adds to each HTTP request, for the type checker."""

from __future__ import annotations

from django.http import HttpRequest
from rest_framework import request as rest_framework

from ops.contracts.principal import Principal


class Request(HttpRequest):
    """A request that came through the middleware. Only for annotations: nothing is ever built of this class.

    ``request_id`` is a UUID in text, ``correlation_id`` the caller's own id (or the request id), ``principal`` who
    asks.
    """

    request_id: str
    correlation_id: str
    principal: Principal


class ApiRequest(rest_framework.Request):
    """The same behind REST framework, which passes the attributes on. Only for annotations."""

    request_id: str
    correlation_id: str
    principal: Principal


def request_id_of(request: object) -> str:
    """The request's id; empty for a request that failed before it got one."""
    return str(getattr(request, "request_id", ""))
