"""Daphne with TLS of its own, with certificates made here and real handshakes."""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.contracts.env import ConfigurationError, load
from tests.serving import PATIENCE_S, POLL_S, free_port
from tests.site.authorities import Certificates, make_certificates
from zenglow_site.environment import BASE_DIR, checked, https_only

REFUSALS = (OSError, http.client.HTTPException)
"""What a refused handshake looks like: an alert, or a connection that is closed, now or at the first answer."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts a server with the given variables; its port."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(**variables: str) -> int:
        port = free_port()
        command = ["-m", "zenglow_site.tls", "-b", "127.0.0.1", "-p", str(port), "--verbosity", "0"]
        log = (tmp_path / f"{port}.log").open("wb")
        with log:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command, "tests.site.tls_application:application"],
                    cwd=BASE_DIR,
                    env=os.environ | variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
                connection.connect()
            except OSError:
                said = (tmp_path / f"{port}.log").read_text(errors="replace")
                assert processes[-1].poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(POLL_S)
            else:
                connection.close()
                return port

    yield start
    for process in processes:
        process.kill()
        process.wait()


def ask(port: int, context: ssl.SSLContext | None) -> bytes:
    """The answer; without a context the question is asked in the clear."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    if context is not None:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def test_it_speaks_tls_and_sends_its_chain(serve: Callable[..., int], certificates: Certificates) -> None:
    """The server's certificate is of an intermediate authority, which a client learns of by the handshake."""
    port = serve(**certificates.server)
    assert ask(port, certificates.context()) == b'{"scheme": "https"}'
    with pytest.raises(REFUSALS):
        ask(port, None)
    old = certificates.context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.deprecated_call():
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        ask(port, old)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_answers_only_clients_whose_certificate_it_knows(
    serve: Callable[..., int], certificates: Certificates, version: ssl.TLSVersion
) -> None:
    port = serve(**certificates.server, **certificates.clients)
    for client in (None, "unknown"):
        stranger = certificates.context(client)
        stranger.minimum_version = stranger.maximum_version = version
        with pytest.raises(REFUSALS):
            ask(port, stranger)
    friend = certificates.context("known")
    friend.minimum_version = friend.maximum_version = version
    assert ask(port, friend) == b'{"scheme": "https"}'


class TestVariables:
    def test_a_server_with_tls_serves_pages_over_https_only(self, certificates: Certificates) -> None:
        assert https_only(checked(load(certificates.server)))
        assert not https_only(checked(load({})))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"ZENGLOW_TLS_KEY": ""}, "ZENGLOW_TLS_KEY is missing"),
            ({"ZENGLOW_TLS_KEY": "/nowhere"}, "ZENGLOW_TLS_KEY is /nowhere, which is no file"),
            ({"ZENGLOW_TLS_CERTIFICATE": "/nowhere"}, "ZENGLOW_TLS_CERTIFICATE is /nowhere"),
            ({"ZENGLOW_TLS_CERTIFICATE": ""}, "ZENGLOW_TLS_KEY means nothing without"),
        ],
    )
    def test_what_is_missing_is_said_at_the_start(
        self, certificates: Certificates, changes: dict[str, str], said: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=said):
            checked(load(certificates.server | changes))
