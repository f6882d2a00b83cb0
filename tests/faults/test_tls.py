"""`manage.py serve` with TLS of its own and client certificates."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.serving import PATIENCE_S, Zenglow
from tests.site.authorities import make_certificates

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("serve")]


def test_it_answers_over_https_those_whose_certificate_it_knows(
    make_zenglow: Callable[..., Zenglow], tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    zenglow = make_zenglow(**certificates.server, **certificates.clients)
    zenglow.start()
    assert f"https://127.0.0.1:{zenglow.port}/search/" in zenglow.output

    def ask(client: str | None) -> tuple[int, str]:
        """The status, and how long browsers are told to keep to HTTPS."""
        context = certificates.context(client)
        connection = http.client.HTTPSConnection("127.0.0.1", zenglow.port, context=context, timeout=PATIENCE_S)
        with closing(connection):
            connection.request("GET", "/search/", headers={"Connection": "close"})
            answer = connection.getresponse()
            answer.read()
            return answer.status, answer.headers["Strict-Transport-Security"]

    status, kept_to_https = ask("known")
    assert status == 200
    assert "max-age=31536000" in kept_to_https
    for stranger in (None, "unknown"):
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(stranger)
    assert zenglow.end() == 0
