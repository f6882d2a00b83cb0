"""What a configured URL may lead to. The servers here are real ones, on this machine's loopback address."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from ops import outgoing
from ops.outgoing import GuardedTransport, OutgoingRefusedError

PUBLIC = "93.184.215.14"


class Echo(BaseHTTPRequestHandler):
    """Answers with the Host that was asked for; ``/elsewhere`` leads into the private network."""

    def do_GET(self) -> None:
        if self.path == "/elsewhere":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/secret")
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


def resolving(*answers: Sequence[str]) -> Callable[[str, int], Sequence[str]]:
    """A name server that gives one answer after the other."""
    left = iter(answers)
    return lambda host, port: next(left)


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://0.0.0.0/",
        "http://localhost/",
        "http://localhost./",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[64:ff9b::a00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[::127.0.0.1]/",
        "http://[fe80::1]/",
        "http://[fd00::1]/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://100.100.100.200/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://198.18.0.1/",
        "http://①②⑦.0.0.1/",
        "ftp://93.184.215.14/",
        "file:///etc/passwd",
        "gopher://127.0.0.1:6379/_FLUSHALL",
        "//93.184.215.14/",
        "93.184.215.14",
        "http://",
        "http:///path",
        "http://[",
        "",
        "https://user:secret@93.184.215.14/",
        "https://user@93.184.215.14/",
        "http://no-such-name.invalid/",
    ],
)
def test_it_refuses_what_leads_inside_or_nowhere(url: str) -> None:
    with pytest.raises(OutgoingRefusedError) as refused:
        outgoing.ensure_allowed(url)
    assert "secret" not in refused.value.detail
    with outgoing.client() as http, pytest.raises((OutgoingRefusedError, httpx.UnsupportedProtocol, httpx.InvalidURL)):
        http.get(url)


@pytest.mark.parametrize("url", [f"https://{PUBLIC}/hook", "https://[2606:2800:21f:cb07:6820:80da:af6b:8b2c]:8443/x"])
def test_it_allows_public_addresses(url: str) -> None:
    outgoing.ensure_allowed(url)


@given(st.ip_addresses(v=4))
def test_an_address_within_another_counts_as_itself(address: ipaddress.IPv4Address) -> None:
    inner = int(address)
    spellings = [(0xFFFF << 32) | inner, (0x64FF9B << 96) | inner, (0x2002 << 112) | (inner << 80)]
    for spelling in spellings:
        assert outgoing.is_public(ipaddress.IPv6Address(spelling)) == outgoing.is_public(address)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    transport = GuardedTransport(resolving([PUBLIC, "10.0.0.8"]))
    with httpx.Client(transport=transport) as http, pytest.raises(OutgoingRefusedError, match=r"10\.0\.0\.8"):
        http.get("http://hooks.example/")


class TestAllowed:
    @pytest.mark.parametrize("entry", ["hooks.internal", "127.0.0.1", "127.0.0.0/8"])
    def test_a_name_an_address_or_a_network_opens_what_it_names(
        self, entry: str, settings: Settings, port: int
    ) -> None:
        settings.OPS_OUTGOING_ALLOWED = (entry,)
        with httpx.Client(transport=GuardedTransport(resolving(["127.0.0.1"]))) as http:
            assert http.get(f"http://hooks.internal:{port}/").text == f"hooks.internal:{port}"

    def test_it_opens_nothing_else(self, settings: Settings) -> None:
        settings.OPS_OUTGOING_ALLOWED = ("hooks.internal", "10.1.2.3")
        for url in ("http://10.1.2.4/", "http://127.0.0.1/", "http://x.hooks.internal.example.invalid/"):
            with pytest.raises(OutgoingRefusedError):
                outgoing.ensure_allowed(url)

    def test_an_allowed_address_may_be_spelt_as_one_of_ipv6(self, settings: Settings) -> None:
        settings.OPS_OUTGOING_ALLOWED = ("10.1.2.3",)
        outgoing.ensure_allowed("http://[::ffff:10.1.2.3]/")


class TestPinning:
    def test_a_name_that_leads_elsewhere_the_second_time_is_asked_once(self, port: int, settings: Settings) -> None:
        """The connection goes to the address that was judged; a second answer is never asked for."""
        settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
        asked: list[str] = []

        def rebinding(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

        with httpx.Client(transport=GuardedTransport(rebinding)) as http:
            assert http.get(f"http://rebound.example:{port}/").status_code == 200
            assert asked == ["rebound.example"]
            with pytest.raises(OutgoingRefusedError):
                http.get(f"http://rebound.example:{port}/")

    def test_each_address_is_tried_until_one_answers(self, port: int, settings: Settings) -> None:
        settings.OPS_OUTGOING_ALLOWED = ("127.0.0.0/8",)
        # Nothing listens on the first: the server is bound to 127.0.0.1 alone.
        with httpx.Client(transport=GuardedTransport(resolving(["127.0.0.9", "127.0.0.1"]))) as http:
            assert http.get(f"http://two.example:{port}/").status_code == 200

    def test_certificates_are_checked_against_the_name(self, settings: Settings) -> None:
        """The inner transport sees the address in the URL, and the name in Host and in the TLS handshake."""
        seen: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            seen.append(request)
            return httpx.Response(204)

        transport = GuardedTransport(resolving([PUBLIC]), httpx.MockTransport(answer))
        with httpx.Client(transport=transport) as http:
            http.post("https://hooks.example/x?y=1", content=b"body")
        assert str(seen[0].url) == f"https://{PUBLIC}/x?y=1"
        assert seen[0].headers["Host"] == "hooks.example"
        assert seen[0].extensions["sni_hostname"] == "hooks.example"


def test_it_follows_no_redirect(port: int, settings: Settings) -> None:
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    with outgoing.client() as http:
        assert http.get(f"http://127.0.0.1:{port}/elsewhere").status_code == 302


def test_a_redirect_that_is_followed_on_purpose_is_judged_again(port: int, settings: Settings) -> None:
    settings.OPS_OUTGOING_ALLOWED = ("hooks.internal",)
    transport = GuardedTransport(resolving(["127.0.0.1"]))
    with httpx.Client(transport=transport, follow_redirects=True) as http, pytest.raises(OutgoingRefusedError):
        http.get(f"http://hooks.internal:{port}/elsewhere")


def test_it_asks_no_proxy_that_the_environment_names(
    port: int, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with outgoing.client() as http:
        assert http.get(f"http://127.0.0.1:{port}/").status_code == 200


def test_a_certificate_of_another_name_is_refused(settings: Settings) -> None:
    """A real TLS server, with a certificate for one name only."""
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    try:
        for name, passes in (("hooks.example", True), ("other.example", False)):
            inner = httpx.HTTPTransport(verify=trusting, trust_env=False)
            with httpx.Client(transport=GuardedTransport(resolving(["127.0.0.1"]), inner)) as http:
                if passes:
                    assert http.get(f"https://{name}:{server.server_address[1]}/").status_code == 200
                else:
                    with pytest.raises(httpx.ConnectError, match=r"[Hh]ostname mismatch|doesn't match|not valid for"):
                        http.get(f"https://{name}:{server.server_address[1]}/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
