"""Who opens a websocket: resolved from its handshake exactly as from an HTTP request."""

from __future__ import annotations

import logging
from importlib import import_module
from io import BytesIO
from typing import cast

import structlog
from django.conf import settings
from django.contrib import auth
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest
from django.db import DatabaseError, InterfaceError

from ops import proxies
from ops.authentication import is_own_origin, resolve_principal
from ops.contracts.facts import note
from ops.contracts.principal import Principal, PrincipalKind
from ops.contracts.problems import AuthenticationNeeded, Problem, Unavailable
from ops.identifiers import correlation_id, uuid7
from ops.limits import policy
from ops.requests import Request
from ops.sockets.refusal import Application, Receive, Scope, Send, deny, refuse
from ops.sockets.threads import in_thread

logger = logging.getLogger(__name__)


class PrincipalOfSocket:
    """Wraps the socket routes: gives ``scope`` a ``principal``, ``request_id``, ``correlation_id`` and ``resolve``.

    ``resolve()`` (blocking) looks the principal up again, for sockets that stay open. A handshake costs what a request
    costs, as each message does (`ops.limits`). A page of another site is
    refused before the handshake, like every change that it asks for over HTTP: a browser sends cookies with any
    handshake, and keeps no page from opening one.
    """

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = handshake_request(scope)
        scope["address"] = str(request.META.get("REMOTE_ADDR") or "")
        scope["request_id"] = request.request_id
        scope["correlation_id"] = request.correlation_id
        scope["resolve"] = lambda: resolve_anew(scope)
        with structlog.contextvars.bound_contextvars(
            request_id=request.request_id, correlation_id=request.correlation_id
        ):
            try:
                proxies.ensure_client_certificate(request.META)
                principal = await in_thread(_paying_principal)(scope)
                if not may_come_from(request, principal):
                    await deny(receive, send)
                    return
            except DisallowedHost:
                await deny(receive, send)
            except Problem as problem:
                await refuse(scope, receive, send, problem)
            else:
                scope["principal"] = principal
                note(principal=principal.log_name)
                await self.application(scope, receive, send)


def _paying_principal(scope: Scope) -> Principal:
    """Who opens a socket, once the handshake is paid for: by the address alone where the key is bad. Blocks."""
    try:
        principal = resolve_anew(scope)
    except AuthenticationNeeded:
        charge_socket(None, scope, policy.BAD_KEY_COST)
        raise
    charge_socket(principal, scope, policy.DEFAULT_COST)
    return principal


def charge_socket(principal: Principal | None, scope: Scope, cost: float) -> None:
    """Draw on the caller's buckets. Blocks. Raises `TooManyRequests`."""
    if cost and policy.is_limited(scope["path"]):
        policy.charge(principal, scope["address"], cost, "websocket")


def handshake_request(scope: Scope) -> Request:
    """The handshake as the request that it is. An id is made for it, as the middleware does for others."""
    scheme = {"wss": "https", "https": "https"}.get(scope.get("scheme", "ws"), "http")
    request = cast(Request, ASGIRequest({**scope, "type": "http", "method": "GET", "scheme": scheme}, BytesIO()))
    proxies.believe(request.META)
    request.request_id = scope.get("request_id") or str(uuid7())
    request.correlation_id = scope.get("correlation_id") or correlation_id(
        request.headers.get("X-Correlation-ID", ""), request.request_id
    )
    return request


def resolve_anew(scope: Scope) -> Principal:
    """Who is behind a socket now. Blocks. Raises a `Problem`: `Unavailable` while the database is away."""
    request = handshake_request(scope)
    try:
        cookie = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
        if cookie is not None:
            request.session = import_module(settings.SESSION_ENGINE).SessionStore(cookie)
            request.user = auth.get_user(request)
        return resolve_principal(request)
    except (DatabaseError, InterfaceError) as error:
        logger.warning("A socket's principal could not be looked up: %s", type(error).__name__)
        raise Unavailable("The database does not answer. Try again in a few seconds.", retry_after_s=5) from error


def may_come_from(request: Request, principal: Principal) -> bool:
    """Whether a page with this ``Origin`` may open a socket as this principal. Raises `DisallowedHost`.

    Programs that are no browser send no ``Origin``; a key is never sent by a browser of itself.
    """
    origin = request.headers.get("Origin")
    if origin is None or principal.kind is PrincipalKind.API_KEY:
        return True
    # Daphne does not tell whether a socket came over TLS.
    schemes = {"https"} if request.is_secure() or settings.SESSION_COOKIE_SECURE else {"http", "https"}
    return is_own_origin(request, origin, schemes)
