"""Several web processes on one port: spoken conversations all take place in the first of them.

A conversation lives in its process, where somebody whose connection was lost comes back to it, and one process knows
best how many the machine can bear. Whichever process accepted the connection of a new one reads what it asks for, and
gives the open connection, with what was read, to the first through a socket that the supervisor made. The client
notices nothing, and no byte of sound takes a detour. While the first process is being started again, connections wait
in that socket; when no more fit, or without one, a process keeps what it accepted.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import daphne.server
import twisted.internet
from daphne import http_protocol
from twisted.internet.protocol import Factory

from ops.contracts.env import handed_over
from zenglow_site.request_body import BoundedRequest
from zenglow_site.web_processes import HANDOVER_VARIABLE, MAX_HEAD_BYTES

logger = logging.getLogger(__name__)

HANDED_PATH = b"ws/voice"
"""Of the sockets that are handed over. Whatever holds it goes: the first process says what is none."""


class HandedRequest(BoundedRequest):
    """A request whose connection goes to the first process when it is for that."""

    giving: socket.socket

    def process(self) -> Any:
        if self._is_for_the_first() and self._hand_over():
            return None
        return super().process()

    def _is_for_the_first(self) -> bool:
        """Whether it opens such a socket. There is no more to it than its head: what was read besides would be lost."""
        upgrades = self.requestHeaders.getRawHeaders(b"Upgrade")
        if upgrades is None:  # as almost all requests
            return False
        has_body = self._received_bytes or self.requestHeaders.hasHeader(b"Transfer-Encoding")
        return upgrades[0].lower() == b"websocket" and HANDED_PATH in unquote_to_bytes(self.uri) and not has_body

    def _hand_over(self) -> bool:
        """Whether the other process has it now."""
        transport = self.channel.transport
        if transport.dataBuffer or transport._tempDataBuffer:
            return False  # an answer before this one is still on its way
        head = [self.method + b" " + self.uri + b" HTTP/1.1"]
        head += [name + b": " + value for name, values in self.requestHeaders.getAllRawHeaders() for value in values]
        try:
            socket.send_fds(self.giving, [b"\r\n".join([*head, b"", b""])], [transport.fileno()])
        except OSError as error:
            logger.warning("A spoken conversation stays in this process: %s", error)
            return False
        # Only this process lets go of it: a shutdown would end it for the other as well.
        transport._shouldShutdown = False
        transport.stopReading()
        transport.loseConnection()
        return True


class Taker:
    """Reads what the other processes give, in the reactor of this one, which drops a reader that raises."""

    def __init__(self, taking: socket.socket, factory: Any) -> None:
        self._taking, self._factory = taking, factory

    def fileno(self) -> int:
        return self._taking.fileno()

    def logPrefix(self) -> str:  # noqa: N802  (Twisted's name)
        return "handed over"

    def doRead(self) -> None:  # noqa: N802
        try:
            data, descriptors, _, _ = socket.recv_fds(self._taking, MAX_HEAD_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            logger.exception("A connection that was handed over can't be read")
            return
        if not descriptors:
            logger.error("A connection that was handed over is lost: this process can't open more files.")
        for descriptor in descriptors:
            try:
                self._take(descriptor, data)
            except Exception:
                logger.exception("A connection that was handed over is lost")
            finally:
                os.close(descriptor)  # the transport has one of its own

    def connectionLost(self, reason: Any) -> None:  # noqa: N802
        """The reactor stops."""

    def _take(self, descriptor: int, data: bytes) -> None:
        adopting = _Adopting(self._factory)
        try:
            _reactor().adoptStreamConnection(descriptor, socket.AF_INET, adopting)
        except OSError as error:
            logger.info("A connection that was handed over has gone: %s", error)
        else:
            adopting.protocol.dataReceived(data)


class _Adopting(Factory):
    """Builds what the server's factory builds, and keeps it at hand."""

    def __init__(self, factory: Any) -> None:
        self._factory = factory
        self.protocol: Any = None

    def buildProtocol(self, addr: Any) -> Any:  # noqa: N802
        self.protocol = self._factory.buildProtocol(addr)
        return self.protocol


def _reactor() -> Any:
    """Daphne's, which has been installed by now; Twisted's types know the module of that name alone."""
    return twisted.internet.reactor


def join_in() -> None:
    """Take part as the supervisor said; nothing where it said nothing. Call it before Daphne makes its server."""
    role, _, descriptor = (handed_over(HANDOVER_VARIABLE) or "").partition(":")
    roles: dict[str, Callable[[socket.socket], None]] = {"take": _take_part, "give": _give}
    if role:
        end = socket.socket(fileno=int(descriptor))
        end.setblocking(False)  # whoever gives answers others, too
        roles[role](end)


def _give(giving: socket.socket) -> None:
    HandedRequest.giving = giving
    http_protocol.WebRequest = HandedRequest


def _take_part(taking: socket.socket) -> None:
    class TakingFactory(http_protocol.HTTPFactory):  # type: ignore[misc]
        def __init__(self, server: Any) -> None:
            super().__init__(server)
            _reactor().addReader(Taker(taking, self))

    daphne.server.HTTPFactory = TakingFactory
