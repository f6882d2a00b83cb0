"""Every error that leaves the server, in one place: problem details (RFC 9457) for programs, a plain page for people.

An exception becomes a `Problem` in `as_problem`, and a problem becomes a response in `respond`. The text of an
exception that is not a problem never leaves: it goes to the log.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import kombu.exceptions
import redis.exceptions
from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.core import exceptions as django_errors
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, UnreadablePostError
from django.http.multipartparser import MultiPartParserError
from django.shortcuts import resolve_url
from django.template import loader
from django_htmx.http import HttpResponseClientRedirect
from rest_framework import exceptions as drf

from ops import tracing
from ops.contracts.problems import (
    CONTENT_TYPE,
    AuthenticationNeeded,
    Forbidden,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotAcceptable,
    NotFound,
    Problem,
    TooLarge,
    TooManyRequests,
    Unavailable,
    UnsupportedMedia,
)
from ops.requests import request_id_of

logger = logging.getLogger(__name__)

API_PREFIXES = ("/rag/", "/registry/", "/metrics", "/health/", "/config/", "/leonardo/", "/v1/", "/api/schema", "/mcp")
"""Paths that programs call: their errors are always problem details."""

Shape = Callable[[Problem, str], dict[str, Any]]
"""A problem and the request's id as the JSON object of an API that is not ours."""

_shapes: dict[str, Shape] = {}

RETRY_AFTER_S = 5
"""When to come back after the database, Redis or the task queue could not be reached."""

AUTHENTICATE = 'Bearer realm="ZenGlow"'


def register_shape(prefix: str, shape: Shape) -> None:
    """Have errors below ``prefix`` answered in another protocol's shape, as the clients of that protocol expect."""
    _shapes[prefix] = shape


def is_api_path(request: HttpRequest) -> bool:
    """Whether errors of this request are problem details rather than a page: by its path, or as a program asks."""
    return (
        request.path.startswith(API_PREFIXES)
        or not request.accepts("text/html")
        or request.headers.get("Authorization", "")[:7].lower() == "bearer "
        or "X-API-Key" in request.headers
    )


def as_problem(error: BaseException) -> Problem:
    """The problem that an exception amounts to. Anything unforeseen is an `InternalError` without its text."""
    match error:
        case Problem():
            return error
        case drf.ValidationError():
            faults = _flatten(error.detail)
            first = next(iter(faults.items()), ("", "The request is not valid."))
            return InvalidRequest(": ".join(part for part in first if part), errors=faults)
        case drf.APIException():
            return _from_rest_framework(error)
        case Http404() | django_errors.ObjectDoesNotExist():
            return NotFound("There is nothing at this address.")
        case django_errors.PermissionDenied():
            return Forbidden("This is not allowed.")
        case django_errors.RequestDataTooBig() | django_errors.TooManyFilesSent() | django_errors.TooManyFieldsSent():
            return TooLarge("The request holds more than this server accepts.")
        case django_errors.DisallowedHost():
            return InvalidRequest("This server does not answer to that host name (see ZENGLOW_ALLOWED_HOSTS).")
        case django_errors.SuspiciousOperation() | django_errors.BadRequest() | MultiPartParserError():
            return InvalidRequest("The request can't be read.")
        case UnreadablePostError():
            return InvalidRequest("The request ended before its body was complete.")
        case OperationalError() | InterfaceError():
            return Unavailable("The database can't be reached just now.", retry_after_s=RETRY_AFTER_S)
        case redis.exceptions.ConnectionError() | redis.exceptions.TimeoutError():
            return Unavailable("Redis can't be reached just now.", retry_after_s=RETRY_AFTER_S)
        case kombu.exceptions.OperationalError():
            return Unavailable("The task queue can't be reached just now.", retry_after_s=RETRY_AFTER_S)
        case DataError():
            return InvalidRequest("A value lies outside what can be stored.")
    return InternalError("Something went wrong here. The log has the details under the request id.")


def refuse(request: HttpRequest, error: BaseException) -> HttpResponse:
    """The response to an exception. What is not the caller's doing is logged with its traceback."""
    problem = as_problem(error)
    if problem.status >= 500:
        tracing.record_error(error)
    if isinstance(problem, InternalError) or isinstance(error, DataError):
        logger.error("Unexpected %s", type(error).__name__, exc_info=error)
    elif problem.status >= 500 and error is not problem:
        logger.warning("%s: %s", type(error).__name__, error)
    return respond(request, problem)


def respond(request: HttpRequest, problem: Problem) -> HttpResponse:
    """The problem as JSON, or as a page where a browser asked for one: the sign-in page to somebody unknown."""
    if is_api_path(request):
        response = _json(request, problem)
    elif isinstance(problem, AuthenticationNeeded):
        response = _sign_in(request)
    else:
        response = _page(request, problem)
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    if response.status_code == AuthenticationNeeded.status:
        response.headers["WWW-Authenticate"] = AUTHENTICATE
    response.headers["Cache-Control"] = "no-store"
    return response


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """REST framework's hook (``EXCEPTION_HANDLER``)."""
    request = context["request"]
    return refuse(getattr(request, "_request", request), error)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Django's hook (``CSRF_FAILURE_VIEW``) for a form without its token."""
    return respond(request, Forbidden("The form has expired, or came from another site. Load the page again."))


def bad_request(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return refuse(request, exception or django_errors.BadRequest())


def forbidden(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return refuse(request, exception or django_errors.PermissionDenied())


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    return refuse(request, exception or Http404())


def server_error(request: HttpRequest) -> HttpResponse:
    """Exceptions of middleware arrive here, among them a database that is gone while the session is read."""
    return refuse(request, sys.exc_info()[1] or InternalError())


def _from_rest_framework(error: drf.APIException) -> Problem:
    detail = str(error.detail) if isinstance(error.detail, str) else str(error.default_detail)
    match error:
        case drf.ParseError():
            return InvalidRequest(detail)
        case drf.NotAuthenticated() | drf.AuthenticationFailed():
            return AuthenticationNeeded(detail)
        case drf.PermissionDenied():
            return Forbidden(detail)
        case drf.NotFound():
            return NotFound(detail)
        case drf.MethodNotAllowed():
            return MethodNotAllowed(detail)
        case drf.NotAcceptable():
            return NotAcceptable(detail)
        case drf.UnsupportedMediaType():
            return UnsupportedMedia(detail)
        case drf.Throttled():
            wait = getattr(error, "wait", None)
            wait_s = None if wait is None else math.ceil(wait)
            return TooManyRequests(detail, retry_after_s=wait_s)
    return InternalError("Something went wrong here.")


def _flatten(detail: Any, path: str = "") -> dict[str, str]:
    """REST framework's nested faults as ``{"documents.0.text": "This field is required."}``, one fault a field."""
    if isinstance(detail, Mapping):
        faults: dict[str, str] = {}
        for name, inner in detail.items():
            own = "" if name == "non_field_errors" else str(name)
            faults |= _flatten(inner, ".".join(part for part in (path, own) if part))
        return faults
    if isinstance(detail, list | tuple):
        if all(isinstance(inner, str) for inner in detail):
            return {path: " ".join(map(str, detail))} if detail else {}
        faults = {}
        for position, inner in enumerate(detail):
            faults |= _flatten(inner, f"{path}.{position}" if path else str(position))
        return faults
    return {path: str(detail)}


def _json(request: HttpRequest, problem: Problem) -> HttpResponse:
    for prefix, shape in _shapes.items():
        if request.path.startswith(prefix):
            body = shape(problem, request_id_of(request))
            return HttpResponse(json.dumps(body, default=str), status=problem.status, content_type="application/json")
    body = problem.as_dict(request_id=request_id_of(request), instance=request.path)
    return HttpResponse(json.dumps(body, default=str), status=problem.status, content_type=CONTENT_TYPE)


def _sign_in(request: HttpRequest) -> HttpResponse:
    """Lead there and back again; back only to an address that can be opened."""
    sign_in = resolve_url(settings.LOGIN_URL)
    if "HX-Request" in request.headers:
        return HttpResponseClientRedirect(sign_in)
    if request.method not in {"GET", "HEAD"}:
        return HttpResponseRedirect(sign_in)
    return redirect_to_login(request.get_full_path(), sign_in)


def _page(request: HttpRequest, problem: Problem) -> HttpResponse:
    """``error.html`` without the request's context: a page that says the database is gone must not ask it."""
    context = {"problem": problem, "request_id": request_id_of(request)}
    try:
        body: str = loader.render_to_string("error.html", context)
    except Exception as error:
        logger.warning("error.html can't be rendered: %s", type(error).__name__)
        body = _BARE_PAGE.format(
            title=escape(problem.title), detail=escape(problem.detail), request_id=escape(request_id_of(request))
        )
    return HttpResponse(body, status=problem.status)


_BARE_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title} · ZenGlow</title></head>
<body><main><h1>{title}</h1><p>{detail}</p><p>Request {request_id}</p><p><a href="/">ZenGlow</a></p></main></body>
</html>
"""
