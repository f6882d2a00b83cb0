"""Certificates made for a test: of the server, of a client, and of a client that nobody knows."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    folder: Path
    authority: trustme.CA

    @property
    def server(self) -> dict[str, str]:
        """The variables of a server that speaks TLS."""
        return {
            "ZENGLOW_TLS_CERTIFICATE": str(self.folder / "server.pem"),
            "ZENGLOW_TLS_KEY": str(self.folder / "server.key"),
        }

    @property
    def clients(self) -> dict[str, str]:
        """The variable of one that asks for client certificates."""
        return {"ZENGLOW_TLS_CLIENT_CA": str(self.folder / "clients-ca.pem")}

    def context(self, client: str | None = None) -> ssl.SSLContext:
        """What a client connects with: ``known``, ``unknown`` or no certificate."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if client is not None:
            context.load_cert_chain(self.folder / f"{client}.pem", self.folder / f"{client}.key")
        return context


def make_certificates(folder: Path) -> Certificates:
    authority, clients, others = trustme.CA(), trustme.CA(), trustme.CA()
    intermediate = authority.create_child_ca()
    clients.cert_pem.write_to_path(folder / "clients-ca.pem")
    made = {
        "server": intermediate.issue_cert("127.0.0.1", "localhost"),
        "known": clients.issue_cert("crawler@zenglow.example"),
        "unknown": others.issue_cert("crawler@zenglow.example"),
    }
    for name, certificate in made.items():
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        for position, link in enumerate(certificate.cert_chain_pems):
            link.write_to_path(folder / f"{name}.pem", append=position > 0)
    return Certificates(folder, authority)
