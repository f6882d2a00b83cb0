"""What every HTTP request passes through: its id, its faults, and who asks."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import cache
from typing import Any, cast

import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.functional import SimpleLazyObject

from ops import proxies, tracing
from ops.access import Access, ensure_allowed, is_sign_in, requirement_of
from ops.api.problems import refuse, respond
from ops.authentication import ensure_same_origin, resolve_principal
from ops.contracts.facts import collecting
from ops.contracts.principal import ANONYMOUS, Principal
from ops.contracts.problems import AuthenticationNeeded, Forbidden, InvalidRequest
from ops.identifiers import correlation_id, uuid7
from ops.limits import policy
from ops.requests import Request

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]

log = structlog.get_logger("zenglow.request")


class Middleware:
    """Runs under WSGI and ASGI alike, without a change of thread: ``before`` and ``after`` do no I/O."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.is_async = iscoroutinefunction(get_response)
        if self.is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        return self.answer_async(cast(Request, request)) if self.is_async else self.answer(cast(Request, request))

    def answer(self, request: Request) -> HttpResponseBase:
        early = self.before(request)
        response = early or cast(HttpResponseBase, self.get_response(request))
        self.after(request, response)
        return response

    async def answer_async(self, request: Request) -> HttpResponseBase:
        early = self.before(request)
        response = early or await cast(Awaitable[HttpResponseBase], self.get_response(request))
        self.after(request, response)
        return response

    def before(self, request: Request) -> HttpResponseBase | None:
        """Prepare the request, or answer it."""
        return None

    def after(self, request: Request, response: HttpResponseBase) -> None:
        """Complete the response in place."""


class ProxyMiddleware(Middleware):
    """Takes of a request what only a trusted proxy may say (`ops.proxies`)."""

    def before(self, request: Request) -> HttpResponseBase | None:
        proxies.believe(request.META)
        return None


class RequestIdMiddleware(Middleware):
    """Gives each request an id, binds it to the logs, answers with it, and writes one log line when all is sent.

    A caller's ``X-Correlation-ID`` is kept when it is sane, else the request id stands in; it is echoed.
    """

    def answer(self, request: Request) -> HttpResponseBase:
        with self._bound(request), collecting() as facts:
            started = time.perf_counter()
            response = super().answer(request)
            self._finish(request, response, started, facts)
            return response

    async def answer_async(self, request: Request) -> HttpResponseBase:
        with self._bound(request), collecting() as facts:
            started = time.perf_counter()
            response = await super().answer_async(request)
            self._finish(request, response, started, facts)
            return response

    def after(self, request: Request, response: HttpResponseBase) -> None:
        response.headers["X-Request-ID"] = request.request_id
        response.headers["X-Correlation-ID"] = request.correlation_id

    def _bound(self, request: Request) -> AbstractContextManager[None]:
        request.request_id = str(uuid7())
        request.correlation_id = correlation_id(request.headers.get("X-Correlation-ID", ""), request.request_id)
        request.principal = ANONYMOUS
        tracing.identify_request(request.request_id)
        return structlog.contextvars.bound_contextvars(
            request_id=request.request_id, correlation_id=request.correlation_id
        )

    def _finish(
        self, request: Request, response: HttpResponseBase, started: float, facts: Mapping[str, object]
    ) -> None:
        """Write the line: now, or once a stream has ended or was broken off, of which each server tells by closing."""
        match = request.resolver_match
        if match is not None and match.route:
            tracing.name_request(request.method or "", f"/{match.route}")
        if not response.streaming:
            self._log(request, response, started, facts)
            return
        # Whoever sends and closes it does so when the ids are bound no more.
        context = copy_context()

        @cache  # what is closed twice, or closes itself while it is being closed, still has one line
        def write() -> None:
            context.copy().run(self._log, request, response, started, facts)

        response.request_context = context  # type: ignore[attr-defined]
        response._resource_closers.append(write)  # type: ignore[attr-defined]

    def _log(self, request: Request, response: HttpResponseBase, started: float, facts: Mapping[str, object]) -> None:
        """One line. The query string stays out: it may hold what somebody asked."""
        write = log.error if response.status_code >= 500 else log.info
        line = {
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "duration_ms": round((time.perf_counter() - started) * 1000, 2),
            "principal": _known_name(request.principal),
        }
        write("request", **{**facts, **line})


class FaultMiddleware(Middleware):
    """Answers every exception of a view: problem details for the API, a plain page for people.

    Exceptions of other middleware reach the handlers in `ops.api.problems`, which answer in the same way.
    """

    def before(self, request: Request) -> HttpResponseBase | None:
        # PostgreSQL text can't hold NUL, so that no path or query with one can name anything.
        if "\x00" in request.path or "%00" in request.META.get("QUERY_STRING", ""):
            return respond(request, InvalidRequest("The address may not contain NUL characters."))
        # Whoever looks whether the process lives comes from within.
        if not request.path.startswith("/health/"):
            try:
                proxies.ensure_client_certificate(request.META)
            except Forbidden as problem:
                return respond(request, problem)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse:
        return refuse(request, exception)


class PrincipalMiddleware(Middleware):
    """Resolves ``request.principal`` and refuses pages to those without the declared right.

    API views are checked by `ops.api.permissions.HasDeclaredScope`, the admin by itself. Needs the session's user:
    stands after Django's ``AuthenticationMiddleware``.
    """

    def after(self, request: Request, response: HttpResponseBase) -> None:
        policy.add_headers(request, response)

    def process_view(
        self, request: HttpRequest, view: Callable[..., Any], args: object, kwargs: object
    ) -> HttpResponseBase | None:
        ours = cast(Request, request)
        if requirement_of(view, request.method) is Access.ANYBODY or is_sign_in(view):
            # Looked up only if the view wants to know: liveness must answer while the database is down.
            ours.principal = cast(Principal, SimpleLazyObject(lambda: _principal_or_anonymous(request)))
            return None
        try:
            principal = _charged_principal(ours, view)
            ensure_same_origin(request, principal)
            if not _checks_itself(request, view):
                ensure_allowed(principal, view, request.method)
        except Exception as error:
            return refuse(request, error)
        return None


def _charged_principal(request: Request, view: object) -> Principal:
    """Who asks, once the request is paid for. A bad key is paid for dearly, by its address."""
    try:
        principal = resolve_principal(request)
    except AuthenticationNeeded:
        policy.charge_request(request, None, view, policy.BAD_KEY_COST)
        raise
    request.principal = principal  # known also of a request that its limits refuse, for the log
    policy.charge_request(request, principal, view)
    return principal


def _principal_or_anonymous(request: HttpRequest) -> Principal:
    """Who asks for what anybody may see; whoever can't be looked up has no right at all.

    Whatever goes wrong (a bad key, a foreign host name, the database away) must not close what says that it is wrong.
    """
    try:
        return resolve_principal(request)
    except Exception:
        return ANONYMOUS


def _checks_itself(request: HttpRequest, view: object) -> bool:
    match = request.resolver_match
    return hasattr(view, "cls") or (match is not None and match.app_name == "admin")


def _known_name(principal: Principal) -> str:
    """Who it was, for the log: a key by its prefix, a person by number and not by name, which may be an address.

    A principal that nobody asked for is not looked up.
    """
    if isinstance(principal, SimpleLazyObject):
        return ANONYMOUS.name
    return principal.log_name
