"""Whose word on the caller's address counts."""

from __future__ import annotations

import base64

import pytest
from django.test import Client, RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from ops import proxies
from ops.middleware import ProxyMiddleware

pytestmark = pytest.mark.usefixtures("trusting")


@pytest.fixture
def trusting(settings: Settings) -> None:
    settings.OPS_TRUSTED_PROXIES = ("10.0.0.0/8", "::1", "2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "client"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),  # a stranger's word
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "127.0.0.1, 198.51.100.7", "198.51.100.7"),  # the caller wrote the first itself
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),  # two proxies of ours
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),  # a caller within
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("::1", "[2001:db8:2::7]:4711", "2001:db8:2::7"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "198.51.100.7, unknown", "10.0.0.1"),
        ("10.0.0.1", "unknown, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", ",,,", "10.0.0.1"),
        ("", "198.51.100.7", ""),
    ],
)
def test_the_chain_is_read_from_its_end_for_as_long_as_its_writers_are_trusted(
    peer: str, forwarded_for: str, client: str
) -> None:
    assert proxies.client_address(peer, forwarded_for) == client


@given(st.text(alphabet="0123456789abcdef.:,[] %/", max_size=60))
def test_any_chain_leads_to_some_address(forwarded_for: str) -> None:
    assert proxies.client_address("203.0.113.9", forwarded_for) == "203.0.113.9"
    assert proxies.client_address("10.0.0.1", forwarded_for) != ""


def test_a_stranger_can_not_say_that_the_connection_is_encrypted(rf: RequestFactory, settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    seen: list[bool] = []
    answer = ProxyMiddleware(lambda request: seen.append(request.is_secure()))  # type: ignore[arg-type, return-value, func-returns-value]
    for peer in ("203.0.113.9", "10.0.0.1"):
        answer(rf.get("/", REMOTE_ADDR=peer, headers={"x-forwarded-proto": "https"}))
    assert seen == [False, True]


class TestClientCertificates:
    @pytest.fixture(autouse=True)
    def _required(self, settings: Settings, keys_on: None) -> None:
        settings.OPS_REQUIRE_CLIENT_CERTIFICATE = True

    @pytest.mark.parametrize(
        ("peer", "header", "status"),
        [
            ("10.0.0.1", "SUCCESS", 401),  # through, to the question for a key
            ("10.0.0.1", "NONE", 403),
            ("10.0.0.1", "FAILED:unable to verify", 403),
            ("10.0.0.1", None, 403),
            ("203.0.113.9", "SUCCESS", 403),  # whoever is no proxy of ours
        ],
    )
    def test_only_a_trusted_proxy_can_say_that_one_was_verified(
        self, remote: Client, peer: str, header: str | None, status: int
    ) -> None:
        headers = {} if header is None else {"x-client-verify": header}
        assert remote.get("/rag/collections", REMOTE_ADDR=peer, headers=headers).status_code == status

    def test_probes_need_none(self, remote: Client) -> None:
        assert remote.get("/health/live").status_code == 200


class TestScrapers:
    @pytest.fixture(autouse=True)
    def _password(self, settings: Settings, keys_on: None) -> None:
        settings.OPS_METRICS_PASSWORD = "correct horse battery staple"

    def scrape(self, remote: Client, credentials: bytes, path: str = "/metrics/basic") -> int:
        header = f"Basic {base64.b64encode(credentials).decode()}"
        return remote.get(path, headers={"authorization": header}).status_code

    def test_they_read_the_metrics_with_their_password(self, remote: Client) -> None:
        assert self.scrape(remote, b"metrics:correct horse battery staple") == 200
        assert self.scrape(remote, b"metrics:correct horse battery staple", "/metrics") == 200

    @pytest.mark.parametrize(
        "credentials", [b"", b"metrics:", b"metrics:wrong", b"admin:correct horse battery staple", b"\xff\xfe"]
    )
    def test_anything_else_opens_nothing(self, remote: Client, credentials: bytes) -> None:
        assert self.scrape(remote, credentials) == 401
        assert remote.get("/metrics/basic", headers={"authorization": "Basic ***"}).status_code == 401

    def test_it_opens_nothing_but_the_metrics(self, remote: Client) -> None:
        for path in ("/rag/collections", "/config/env", "/search/", "/admin/"):
            assert self.scrape(remote, b"metrics:correct horse battery staple", path) in {401, 302}

    def test_without_a_password_the_scheme_means_nothing(self, remote: Client, settings: Settings) -> None:
        settings.OPS_METRICS_PASSWORD = None
        for credentials in (b"metrics:None", b"metrics:", b":"):
            assert self.scrape(remote, credentials) == 401
