"""Who draws on which bucket, how much each request costs, and what callers are told about it."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase

from ops.access import view_class
from ops.contracts.metrics import declare_counter
from ops.contracts.principal import Principal, PrincipalKind
from ops.contracts.problems import TooManyRequests
from ops.limits.buckets import Bucket, Limit, Verdict, take

DEFAULT_COST = 1.0
BAD_KEY_COST = 10.0
"""What a key that is unknown, expired or revoked costs its address: guessing ends sooner than working does."""

EXEMPT_PREFIXES = ("/health/", "/metrics", "/config/", "/admin/", "/sign-in/", "/sign-out/", "/static/", "/api/")
"""What must answer while a caller is limited: probes, scrapers, and people who put things right. Sign-in has its own
limits (`zenglow_site.accounts`)."""

IPV6_HOLDER_BITS = 64
"""One customer's network: every address in it is one holder."""

REFUSALS = declare_counter("zenglow_rate_limit_refusals", "Requests refused for their number.", ("policy", "surface"))


def cost_of(view: object, method: str | None) -> float:
    """What a request costs, in tokens: the view's ``rate_costs`` by method, else 1."""
    costs: Mapping[str, float] = getattr(view_class(view), "rate_costs", None) or {}
    return costs.get(method or "", DEFAULT_COST)


def buckets_of(principal: Principal | None, address: str) -> list[Bucket]:
    """The buckets of a caller: its key's or user's, and always its address's."""
    buckets: list[Bucket] = []
    if principal is not None and principal.kind is PrincipalKind.API_KEY:
        key = Limit("key", settings.OPS_RATE_LIMIT_KEY_BURST, settings.OPS_RATE_LIMIT_KEY_PER_S)
        buckets.append(Bucket(key, principal.name))
    elif principal is not None and principal.kind is PrincipalKind.USER:
        user = Limit("user", settings.OPS_RATE_LIMIT_USER_BURST, settings.OPS_RATE_LIMIT_USER_PER_S)
        buckets.append(Bucket(user, str(principal.user_id)))
    holder = address_holder(address)
    if holder:
        buckets.append(Bucket(Limit("ip", settings.OPS_RATE_LIMIT_IP_BURST, settings.OPS_RATE_LIMIT_IP_PER_S), holder))
    return buckets


@lru_cache(maxsize=4096)
def address_holder(address: str) -> str:
    """An IPv4 address, or the /64 network of one of IPv6; empty for what is neither, such as a local socket."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, IPV6_HOLDER_BITS), strict=False))
    return str(parsed)


def is_limited(path: str) -> bool:
    """Whether requests to ``path`` are limited at all."""
    return bool(settings.RATE_LIMITS) and not path.startswith(EXEMPT_PREFIXES)


def charge(principal: Principal | None, address: str, cost: float, surface: str) -> Verdict:
    """Draw ``cost`` from the caller's buckets. Raises `TooManyRequests`, which carries the verdict as ``verdict``.

    ``surface`` is ``http`` or ``websocket``; for the metric.
    """
    verdict = take(buckets_of(principal, address), cost)
    if not verdict.is_granted:
        raise _refusal(verdict, surface)
    return verdict


def charge_request(request: HttpRequest, principal: Principal | None, view: object, cost: float | None = None) -> None:
    """The same for a request, which remembers the verdict for its answer's headers (`add_headers`)."""
    if not is_limited(request.path):
        return
    price = cost_of(view, request.method) if cost is None else cost
    try:
        verdict = charge(principal, str(request.META.get("REMOTE_ADDR") or ""), price, "http")
    except LimitReached as refusal:
        request.rate_limit = refusal.verdict  # type: ignore[attr-defined]
        raise
    request.rate_limit = verdict  # type: ignore[attr-defined]


def add_headers(request: HttpRequest, response: HttpResponseBase) -> None:
    """``RateLimit-Policy`` and ``RateLimit`` of draft-ietf-httpapi-ratelimit-headers-09 (structured fields).

    ``q`` is the burst, ``w`` the seconds in which it is regained in full, ``r`` what is left, and ``t`` the seconds
    until all of it is there again.
    """
    verdict: Verdict | None = getattr(request, "rate_limit", None)
    if verdict is None or not verdict.levels:
        return
    limits = [level.bucket.limit for level in verdict.levels]
    response.headers["RateLimit-Policy"] = ", ".join(
        f'"{limit.name}";q={limit.burst};w={limit.window_s}' for limit in limits
    )
    response.headers["RateLimit"] = ", ".join(
        f'"{level.bucket.limit.name}";r={math.floor(level.left)};t={level.full_in_s}' for level in verdict.levels
    )


class LimitReached(TooManyRequests):
    """A refusal that knows its verdict."""

    def __init__(self, detail: str, verdict: Verdict, **more: Any) -> None:
        super().__init__(detail, **more)
        self.verdict = verdict


def _refusal(verdict: Verdict, surface: str) -> LimitReached:
    names = [level.bucket.limit.name for level in verdict.lacking]
    for name in names:
        REFUSALS.labels(name, surface).inc()
    wait_s = verdict.retry_after_s
    who = {"key": "this API key", "user": "this user", "ip": "this address"}
    holders = " and ".join(who.get(name, name) for name in names)
    return LimitReached(
        f"Too many requests of {holders}. Come back in {wait_s} s.",
        verdict,
        retry_after_s=wait_s,
        **{"violated-policies": names},  # as the same draft names it
    )
