"""Several web processes on one port: how many, and the channel by which they hand over connections."""

from __future__ import annotations

import socket

from zenglow_site.embedded.machine import clamp, memory_bytes, processors

MOST = 4
"""Beyond these the database has more to do than they. Who knows better says a number."""

MEMORY_EACH_BYTES = 3 * 2**30
"""Of the machine, one process for so much: beside them there are the stores, the worker and engines of voice."""

HANDOVER_VARIABLE = "HANDED_OVER_BY_ZENGLOW"
"""Name of the environment variable that tells a web process its end of the channel: ``take:<fd>`` or ``give:<fd>``."""

MAX_HEAD_BYTES = 64 * 1024
"""Of a request whose connection is handed over, at most: Twisted reads no head of more than 16 KiB."""


def web_processes(asked: int, *, share_an_address: bool) -> int:
    """``asked``, or as many as this machine has processors and memory for when that is 0.

    ``share_an_address``: whether several can, see `zenglow_site.supervisor`.
    """
    if asked:
        return asked
    if not share_an_address:
        return 1
    return clamp(min(processors(), memory_bytes() // MEMORY_EACH_BYTES), 1, MOST)


def handover_channel() -> tuple[socket.socket, socket.socket]:
    """The ends of whoever takes and of those who give, see `zenglow_site.handover`. Each datagram is a connection and
    what was read of it.
    """
    taking, giving = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    giving.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_HEAD_BYTES)
    return taking, giving
