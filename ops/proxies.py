"""What a proxy says of the caller, believed only of the proxies in ``OPS_TRUSTED_PROXIES``.

Anybody can write ``X-Forwarded-For`` into a request. The chain is therefore read from its end, where the nearest proxy
wrote, for as long as the writers are trusted; the first other address is the caller's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from django.conf import settings

from ops.contracts.problems import Forbidden

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED_BY_PROXIES = ("HTTP_X_FORWARDED_PROTO", "HTTP_X_CLIENT_VERIFY", "HTTP_X_CLIENT_SUBJECT")
"""Headers that mean something only when a trusted proxy wrote them; taken out of every other request."""

MOST_HOPS = 32


def believe(meta: dict[str, Any]) -> None:
    """Make ``REMOTE_ADDR`` of a request the caller's own address, and forget what only a trusted proxy may say."""
    peer = str(meta.get("REMOTE_ADDR") or "")
    if not is_trusted(peer):
        for header in FORWARDED_BY_PROXIES:
            meta.pop(header, None)
    elif "HTTP_X_FORWARDED_FOR" in meta:
        meta["REMOTE_ADDR"] = client_address(peer, meta["HTTP_X_FORWARDED_FOR"])


def ensure_client_certificate(meta: Mapping[str, Any]) -> None:
    """Raise `Forbidden` where a client certificate is required and no trusted proxy has verified one."""
    if settings.OPS_REQUIRE_CLIENT_CERTIFICATE and meta.get("HTTP_X_CLIENT_VERIFY") != "SUCCESS":
        raise Forbidden("This server needs a client certificate that its proxy has verified.")


def client_address(peer: str, forwarded_for: str) -> str:
    """The address of whoever asks: of the peer, or of whom trusted proxies spoke for."""
    if not is_trusted(peer):
        return peer
    client = peer
    for hop in reversed(forwarded_for.split(",")[-MOST_HOPS:]):
        address = _address(hop)
        if address is None:  # a proxy that hides its caller (``unknown``), or a forgery: the last known one counts
            break
        client = address
        if not is_trusted(address):
            break
    return client


def is_trusted(address: str) -> bool:
    """Whether the word of a peer counts."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    plain = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(plain in network for network in trusted_networks(tuple(settings.OPS_TRUSTED_PROXIES)))


@lru_cache(maxsize=8)
def trusted_networks(entries: tuple[str, ...]) -> Sequence[Network]:
    """Addresses and networks, parsed. Raises ``ValueError`` for anything else."""
    return tuple(ipaddress.ip_network(entry, strict=False) for entry in entries)


def _address(hop: str) -> str | None:
    """One entry of ``X-Forwarded-For``: an address, perhaps with a port."""
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
