"""Identifiers that sort by the time they were made."""

from __future__ import annotations

import re
import secrets
import time
import uuid

from ops.scrub import find

_SANE_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def uuid7() -> uuid.UUID:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.

    Rows keyed by it arrive at the end of their index. Within one millisecond the order is random.
    """
    timestamp_ms = time.time_ns() // 1_000_000
    value = (timestamp_ms & (2**48 - 1)) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return uuid.UUID(int=value)


def correlation_id(offered: str, own: str) -> str:
    """The caller's id when it is short, plain, and neither an address nor a secret; else ``own``. It will be logged."""
    if not _SANE_CORRELATION_ID.fullmatch(offered) or any(one.label in {"email", "secret"} for one in find(offered)):
        return own
    return offered
