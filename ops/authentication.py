"""Who asks: an API key, a signed-in user, whoever sits at this machine, or somebody unknown."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Set
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import DisallowedHost
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from ops import keys
from ops.contracts.principal import ANONYMOUS, LOOPBACK, Principal, PrincipalKind, Scope
from ops.contracts.problems import AuthenticationNeeded, Forbidden

USER_SCOPES = frozenset({Scope.QUERY, Scope.INGEST, Scope.FEEDBACK, Scope.VOICE})
"""What a signed-in person may do who is no member of staff."""

SCRAPER = Principal(kind=PrincipalKind.API_KEY, name="metrics", scopes=frozenset({Scope.OPS_READ}))
"""Whoever knows ``OPS_METRICS_PASSWORD``, at `SCRAPED_PATHS` alone. No key's prefix is as short."""
SCRAPED_PATHS = ("/metrics",)

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
FORWARDING_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})


def resolve_principal(request: HttpRequest) -> Principal:
    """The principal of a request.

    A key in the headers decides alone: a bad one is refused with `AuthenticationNeeded`, never ignored. Then comes the
    session's user; then, only where keys are off, the loopback rule. May raise a database error.
    """
    key = presented_key(request)
    if key is not None:
        principal = keys.verify(key)
        if principal is None:
            raise AuthenticationNeeded("The API key is unknown, expired or revoked.")
        return principal
    if is_scraper(request):
        return SCRAPER
    user = getattr(request, "user", None)
    if isinstance(user, AbstractUser) and user.is_authenticated:
        return user_principal(user)
    if not settings.ENABLE_API_KEYS and (settings.ALLOW_ANONYMOUS or is_loopback(request)):
        return LOOPBACK
    return ANONYMOUS


def presented_key(request: HttpRequest) -> str | None:
    """The text of the key in ``Authorization: Bearer`` or ``X-API-Key``; other schemes are not ours."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return credentials.strip()
    return request.headers.get("X-API-Key")


def is_scraper(request: HttpRequest) -> bool:
    """Whether a request for ``/metrics…`` carries the scrapers' password by Basic authentication (RFC 7617).

    Raises `AuthenticationNeeded` for any other. Where no password is set, and elsewhere, the scheme means nothing.
    """
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic" or not settings.OPS_METRICS_PASSWORD or not request.path.startswith(SCRAPED_PATHS):
        return False
    try:
        given = base64.b64decode(credentials.strip(), validate=True)
    except ValueError:
        given = b""
    if not constant_time_compare(given, f"{SCRAPER.name}:{settings.OPS_METRICS_PASSWORD}".encode()):
        raise AuthenticationNeeded("The user name or password of the metrics is wrong.")
    return True


def user_principal(user: AbstractUser) -> Principal:
    """Staff and superusers administer; everybody else asks, adds documents and judges results."""
    administers = user.is_staff or user.is_superuser
    return Principal(
        kind=PrincipalKind.USER,
        name=user.get_username(),
        scopes=frozenset({Scope.ADMIN}) if administers else USER_SCOPES,
        groups=frozenset(user.groups.values_list("name", flat=True)),
        user_id=user.pk,
    )


def is_loopback(request: HttpRequest) -> bool:
    """Whether peer and Host header are both of this machine, with no proxy between.

    The Host header guards against DNS rebinding: a page of another site that resolves its own name to 127.0.0.1. A
    forwarding header is never believed, but its presence shows that the peer speaks for somebody else.
    """
    if any(header in request.headers for header in FORWARDING_HEADERS):
        return False
    try:
        peer = ipaddress.ip_address(request.META.get("REMOTE_ADDR") or "")
        host = request.get_host()
    except (ValueError, DisallowedHost):
        return False
    mapped = getattr(peer, "ipv4_mapped", None)
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    return (mapped or peer).is_loopback and name.lower() in LOOPBACK_NAMES


def ensure_same_origin(request: HttpRequest, principal: Principal) -> None:
    """Refuse what a page of another site makes a browser send.

    Concerns principals that a browser carries without being asked (a session cookie, or simply sitting at this
    machine) and methods that change something. A client that is no browser sends neither header and passes.
    """
    if request.method in SAFE_METHODS or principal.kind is PrincipalKind.API_KEY:
        return
    origin = request.headers.get("Origin")
    if origin is not None:
        if not is_own_origin(request, origin, {request.scheme or "http"}):
            raise Forbidden("A page of another site may not do this.")
    elif request.headers.get("Sec-Fetch-Site", "same-origin") not in {"same-origin", "none"}:
        raise Forbidden("A page of another site may not do this.")


def is_own_origin(request: HttpRequest, origin: str, schemes: Set[str]) -> bool:
    """Whether an ``Origin`` header names this site, under one of ``schemes``, or a trusted one.

    Raises `DisallowedHost`.
    """
    host = request.get_host()
    return any(origin == f"{scheme}://{host}" for scheme in schemes) or _is_trusted(origin)


def _is_trusted(origin: str) -> bool:
    """Whether ``CSRF_TRUSTED_ORIGINS`` names this origin, with ``https://*.example.org`` as Django reads it."""
    parts = urlsplit(origin)
    for trusted in settings.CSRF_TRUSTED_ORIGINS:
        pattern = urlsplit(trusted)
        if parts.scheme == pattern.scheme and (
            parts.netloc == pattern.netloc
            or (pattern.netloc.startswith("*.") and parts.netloc.endswith(pattern.netloc[1:]))
        ):
            return True
    return False
