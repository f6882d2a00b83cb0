"""Daphne with TLS of its own: `python -m zenglow_site.tls` takes Daphne's arguments.

The certificate, its key and the authorities of client certificates come from ``ZENGLOW_TLS_*``. With authorities, a
client without a certificate of one of them fails in the handshake, before anything it sends is read; Daphne's own
command line has no word for that, hence this module. TLS 1.2 and 1.3, with Twisted's ciphers.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from daphne.cli import CommandLineInterface
from daphne.server import Server
from twisted.internet import reactor, ssl
from twisted.internet.endpoints import SSL4ServerEndpoint

from ops.contracts.env import Environment
from zenglow_site.environment import environment

_PEM_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


class TlsServer(Server):  # type: ignore[misc]  # it has no types
    """Listens on the same address as Daphne would, with TLS."""

    def run(self) -> None:
        host, port = self.endpoints[0].removeprefix("tcp:port=").split(":interface=")[::-1]
        options = tls_options(environment())
        endpoint = SSL4ServerEndpoint(reactor, int(port), options, interface=host.replace("\\", ""))
        self.endpoints: list[str] = []

        def listen() -> None:
            listener = endpoint.listen(self.http_factory)
            listener.addCallback(self.listen_success)
            listener.addErrback(self.listen_error)
            self.listeners.append(listener)

        self.ready_callable = listen
        super().run()


class TlsCommandLineInterface(CommandLineInterface):  # type: ignore[misc]
    server_class = TlsServer


def tls_options(loaded: Environment) -> ssl.CertificateOptions:
    """What the handshake is made with. Raises ``OSError`` and, for what is no certificate or does not fit, others."""
    certificate, *chain = certificates_in(loaded["ZENGLOW_TLS_CERTIFICATE"])
    own = ssl.PrivateCertificate.loadPEM(certificate.dumpPEM() + loaded["ZENGLOW_TLS_KEY"].read_bytes())
    more: dict[str, Any] = {}
    if loaded["ZENGLOW_TLS_CLIENT_CA"] is not None:
        more["trustRoot"] = ssl.trustRootFromCertificates(certificates_in(loaded["ZENGLOW_TLS_CLIENT_CA"]))
    return ssl.CertificateOptions(
        privateKey=own.privateKey.original,
        certificate=own.original,
        extraCertChain=[link.original for link in chain],
        raiseMinimumTo=ssl.TLSVersion.TLSv1_2,
        acceptableProtocols=[b"http/1.1"],
        **more,
    )


def certificates_in(path: Path) -> list[ssl.Certificate]:
    """The certificates of a PEM file, at least one, in their order. Raises ``OSError`` and ``ValueError``."""
    found = [ssl.Certificate.loadPEM(text) for text in _PEM_CERTIFICATE.findall(path.read_bytes())]
    if not found:
        raise ValueError(f"{path} holds no certificate in PEM form.")
    return found


if __name__ == "__main__":
    TlsCommandLineInterface.entrypoint()
