"""HTTP to addresses that people configure: never into the private network by accident.

A webhook's URL is typed into a form, and the server then calls it from inside the operator's network, where a metadata
service, a Redis or an admin page may listen (server-side request forgery, CWE-918). So every URL that is not set by the
operator's own environment goes through `client`, which

- resolves the host, refuses the call unless **every** address is public or named in ``OPS_OUTGOING_ALLOWED``, and
  connects to the very address that was judged, so that a second, different answer of the name server changes nothing
  (DNS rebinding); certificates are still checked against the name;
- follows no redirect and no proxy variable, and keeps no connection that another name could be given.

`ensure_allowed` says the same when the URL is typed in. A name may lead elsewhere later, so both are needed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import httpx
from django.conf import settings

from ops.contracts.metrics import declare_counter
from ops.contracts.problems import InvalidRequest

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolver = Callable[[str, int], Sequence[str]]

SCHEMES = {"http": 80, "https": 443}
DEFAULT_TIMEOUT_S = 5.0

# Addresses of IPv6 that are another spelling of one of IPv4, with the bits that hold it.
EMBEDDING_NETWORKS = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),  # IPv4-mapped, RFC 4291
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),  # IPv4-translated, RFC 2765
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
    (ipaddress.IPv6Network("::/96"), 0),  # IPv4-compatible, RFC 4291; holds :: and ::1 too
)

# Not for everybody, although Python calls some of them global.
RESERVED_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; some clouds keep their metadata service here
            "192.0.0.0/24",
            "192.88.99.0/24",
            "64:ff9b:1::/48",  # local NAT64, RFC 8215
            "100::/64",
            "2001::/23",
            "2001:db8::/32",
            "3fff::/20",
            "5f00::/16",
            "fec0::/10",
        ),
    )
)

REFUSED = declare_counter(
    "zenglow_outgoing_refused", "Calls to configured URLs that were refused, by reason.", ("why",)
)


class OutgoingRefusedError(InvalidRequest):
    """A URL that this server does not call. ``detail`` says why, and which variable changes it."""


def client(*, timeout_s: float = DEFAULT_TIMEOUT_S, **options: Any) -> httpx.Client:
    """An httpx client that calls public and allowed addresses only; anything else raises `OutgoingRefusedError`.

    A redirect is an answer like any other. To be closed, as any client: ``with outgoing.client() as http: …``.
    """
    return httpx.Client(transport=GuardedTransport(), timeout=timeout_s, trust_env=False, **options)


def async_client(*, timeout: httpx.Timeout, **options: Any) -> httpx.AsyncClient:
    """As `client`, for an event loop: ``async with outgoing.async_client(…) as http: …``."""
    return httpx.AsyncClient(transport=AsyncGuardedTransport(), timeout=timeout, trust_env=False, **options)


def ensure_allowed(url: str) -> None:
    """Raise `OutgoingRefusedError` for a URL that `client` would not call just now."""
    _judged(_parsed(url), resolve)


def addresses_of(url: str) -> list[str]:
    """The addresses that a URL may be called at just now, for programs that connect by themselves: to one of these,
    under the name in the URL. Raises `OutgoingRefusedError`.
    """
    return _judged(_parsed(url), resolve)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, as the system finds them. Raises ``OSError``."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class GuardedTransport(httpx.BaseTransport):
    """Judges each request, then connects to the address that was judged, under the name that was asked for."""

    def __init__(self, resolver: Resolver = resolve, inner: httpx.BaseTransport | None = None) -> None:
        self._resolver = resolver
        # No connection is kept: it would be found again by its address, whatever name it was made for.
        self._inner = inner or httpx.HTTPTransport(
            trust_env=False, limits=httpx.Limits(max_keepalive_connections=0), retries=0
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        addresses = _judged(request.url, self._resolver)
        for attempt, address in enumerate(addresses, start=1):
            pinned = _pinned(request, address)
            try:
                return self._inner.handle_request(pinned)
            except httpx.ConnectError:  # nothing was sent yet: the next address may answer
                if attempt == len(addresses):
                    raise
        raise AssertionError("no address was judged")

    def close(self) -> None:
        self._inner.close()


class AsyncGuardedTransport(httpx.AsyncBaseTransport):
    """As `GuardedTransport`; names are resolved on a thread."""

    def __init__(self, resolver: Resolver = resolve, inner: httpx.AsyncBaseTransport | None = None) -> None:
        self._resolver = resolver
        self._inner = inner or httpx.AsyncHTTPTransport(
            trust_env=False, limits=httpx.Limits(max_keepalive_connections=0), retries=0
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        addresses = await asyncio.to_thread(_judged, request.url, self._resolver)
        for attempt, address in enumerate(addresses, start=1):
            pinned = _pinned(request, address)
            try:
                return await self._inner.handle_async_request(pinned)
            except httpx.ConnectError:  # nothing was sent yet: the next address may answer
                if attempt == len(addresses):
                    raise
        raise AssertionError("no address was judged")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _pinned(request: httpx.Request, address: str) -> httpx.Request:
    """The request to an address that was judged, under the name that was asked for."""
    return httpx.Request(
        request.method,
        request.url.copy_with(host=address),
        headers=request.headers,  # with the Host of the name
        stream=request.stream,
        extensions={**request.extensions, "sni_hostname": request.url.host},
    )


def is_public(address: Address) -> bool:
    """Whether an address is one of the Internet's, also where it is written into another."""
    if isinstance(address, ipaddress.IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return is_public(embedded)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in RESERVED_NETWORKS if network.version == address.version)
    )


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except (httpx.InvalidURL, TypeError, ValueError):
        raise _refusal("malformed", "This is no URL.") from None


def _judged(url: httpx.URL, resolver: Resolver) -> list[str]:
    """The addresses to connect to, in the resolver's order; at least one. Raises `OutgoingRefusedError`."""
    if url.scheme not in SCHEMES or not url.host:
        raise _refusal("scheme", "The URL must begin with https:// or http:// and name a host.")
    if url.userinfo:
        raise _refusal("credentials", "The URL may not hold a user name or password: it is shown in lists and logs.")
    host = url.host.rstrip(".").lower()
    try:
        found = [str(ipaddress.ip_address(host))]
    except ValueError:
        try:
            found = list(resolver(host, url.port or SCHEMES[url.scheme]))
        except (OSError, UnicodeError):
            raise _refusal("unresolved", f"The name {host} can't be resolved.") from None
    if not found:
        raise _refusal("unresolved", f"The name {host} can't be resolved.")
    if host in settings.OPS_OUTGOING_ALLOWED:
        return found
    networks = allowed_networks(settings.OPS_OUTGOING_ALLOWED)
    for text in found:
        # A zone (fe80::1%eth0) is link-local by nature.
        address = ipaddress.ip_address(text.partition("%")[0])
        if not is_public(address) and not any(_contains(network, address) for network in networks):
            raise _refusal(
                "private",
                f"{host} leads to {address}, which is no public address. If it is meant, add it to "
                "OPS_OUTGOING_ALLOWED.",
            )
    return found


def allowed_networks(entries: Iterable[str]) -> list[Network]:
    """The entries of ``OPS_OUTGOING_ALLOWED`` that are addresses or networks; the others are names."""
    networks: list[Network] = []
    for entry in entries:
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            continue
    return networks


def _contains(network: Network, address: Address) -> bool:
    embedded = _embedded(address) if isinstance(address, ipaddress.IPv6Address) else None
    return address in network or (embedded is not None and embedded in network)


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    for network, shift in EMBEDDING_NETWORKS:
        if address in network and int(address) > 1:  # :: and ::1 mean themselves
            return ipaddress.IPv4Address(int(address) >> shift & 0xFFFF_FFFF)
    return None


def _refusal(why: str, detail: str) -> OutgoingRefusedError:
    REFUSED.labels(why).inc()
    return OutgoingRefusedError(detail)
