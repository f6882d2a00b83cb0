"""What every answer tells the browser, whoever makes it."""

from __future__ import annotations

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from ops.headers import POLICY, content_security_policy

pytestmark = pytest.mark.django_db


def test_nothing_inline_or_evaluated_and_nothing_from_elsewhere_is_allowed() -> None:
    policy = content_security_policy()
    for word in ("unsafe", "http:", "https:", "*"):
        assert word not in policy
    assert POLICY["default-src"] == "'none'"


@pytest.mark.parametrize("path", ["/rag/collections", "/search/", "/nowhere/", "/health/live", "/admin/", "/sign-in/"])
def test_every_answer_carries_the_headers(keys_on: None, remote: Client, path: str) -> None:
    headers = remote.get(path, headers={"accept": "text/html"}).headers
    assert headers["Content-Security-Policy"] == content_security_policy()
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "geolocation=()" in headers["Permissions-Policy"]


def test_a_host_that_is_not_served_is_refused_with_them(keys_off: None, local: Client) -> None:
    response = local.get("/rag/collections", headers={"host": "elsewhere.example"})
    assert response.status_code == 400
    assert response.headers["Content-Security-Policy"] == content_security_policy()


def test_over_https_only_the_policy_asks_for_nothing_over_http(settings: Settings) -> None:
    settings.SECURE_SSL_REDIRECT = True
    assert content_security_policy().endswith("; upgrade-insecure-requests")
