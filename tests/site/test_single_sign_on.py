"""Single sign-on against an OpenID Connect provider over real HTTP: who comes in, and with which groups."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from ops.authentication import user_principal
from ops.contracts.principal import Scope
from zenglow_site.single_sign_on import groups_in

pytestmark = pytest.mark.django_db

CLIENT_ID = "zenglow"


def encoded(part: Any) -> str:
    """A part of a JSON web token."""
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


class Provider:
    """Signs in whoever ``claims`` describes."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {"sub": "u-1", "preferred_username": "ada", "email": "ada@example.org"}
        self.token_requests: list[dict[str, list[str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/.well-known/openid-configuration":
                    self._json(outer.configuration())
                elif self.path == "/userinfo":
                    self._json(outer.claims)
                else:
                    self._json({"error": "not found"}, 404)

            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                outer.token_requests.append(body)
                if body.get("code") != ["good"]:
                    self._json({"error": "invalid_grant"}, 400)
                    return
                now = int(time.time())
                facts = {"iss": outer.url, "aud": CLIENT_ID, "iat": now, "exp": now + 3600}
                # It comes from the provider itself, so that its signature is not looked at (OpenID Connect, 3.1.3.7).
                token = ".".join(encoded(part) for part in ({"alg": "RS256"}, outer.claims | facts, "signature"))
                self._json({"access_token": "t", "token_type": "Bearer", "expires_in": 3600, "id_token": token})

            def _json(self, answer: Any, status: int = 200) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "userinfo_endpoint": f"{self.url}/userinfo",
            "jwks_uri": f"{self.url}/keys",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def provider(settings: Any, empty_cache: None) -> Iterator[Provider]:
    made = Provider()
    app = {
        "provider_id": "sso",
        "name": "the office",
        "client_id": CLIENT_ID,
        "secret": "s",
        "settings": {"server_url": made.url},
    }
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"APPS": [app], "OAUTH_PKCE_ENABLED": True}}
    settings.SINGLE_SIGN_ON, settings.SINGLE_SIGN_ON_ISSUER = "the office", made.url
    settings.ENABLE_API_KEYS = True
    settings.ZENGLOW_OIDC_ADMIN_GROUP = "admins"
    yield made
    made.close()


@pytest.fixture
def browser() -> Client:
    return Client(SERVER_NAME="127.0.0.1")


def sign_in(browser: Client, code: str = "good") -> Any:
    """Through the provider and back; the last answer."""
    away = browser.post("/sign-in/sso/?next=/documents/")
    assert away.status_code == 302
    asked = parse_qs(urlsplit(away.url).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert urlsplit(asked["redirect_uri"][0]).path == "/sign-in/oidc/sso/callback/"
    return browser.get("/sign-in/oidc/sso/callback/", {"code": code, "state": asked["state"][0]})


def test_the_sign_in_page_offers_it_beside_the_password_and_lets_the_browser_go_there(
    browser: Client, provider: Provider
) -> None:
    page = browser.get("/sign-in/")
    assert "Sign in with the office" in page.content.decode()
    assert f"form-action 'self' {provider.url};" in page["Content-Security-Policy"]


def test_without_a_provider_there_is_no_button(browser: Client) -> None:
    page = browser.get("/sign-in/")
    assert "Sign in with" not in page.content.decode()
    assert "form-action 'self';" in page["Content-Security-Policy"]


def test_somebody_new_comes_in_with_the_groups_of_the_claim(browser: Client, provider: Provider) -> None:
    provider.claims["groups"] = ["keepers", "sailors"]
    answer = sign_in(browser)
    assert (answer.status_code, answer.url) == (302, "/documents/")
    user = User.objects.get(username="ada")
    principal = user_principal(user)
    assert principal.groups == {"keepers", "sailors"}
    assert not principal.has_scope(Scope.ADMIN)
    assert browser.get("/documents/").status_code == 200
    assert provider.token_requests[0]["code_verifier"]


def test_groups_follow_the_provider_at_each_sign_in(browser: Client, provider: Provider) -> None:
    provider.claims["groups"] = ["keepers", "admins"]
    sign_in(browser)
    user = User.objects.get(username="ada")
    assert user_principal(user).has_scope(Scope.ADMIN)
    provider.claims["groups"] = ["sailors"]
    sign_in(Client(SERVER_NAME="127.0.0.1"))
    user.refresh_from_db()
    principal = user_principal(user)
    assert principal.groups == {"sailors"}
    assert not principal.has_scope(Scope.ADMIN)
    assert User.objects.count() == 1


def test_a_claimed_address_or_name_opens_no_local_account(browser: Client, provider: Provider) -> None:
    local = User.objects.create_superuser("ada", email="ada@example.org", password="a long password for ada")
    sign_in(browser)
    assert User.objects.count() == 2
    assert browser.session["_auth_user_id"] != str(local.pk)


@pytest.mark.parametrize("query", [{"error": "access_denied"}, {"code": "bad"}, {"code": "good", "state": "forged"}])
def test_what_fails_leads_back_to_the_sign_in_page(browser: Client, provider: Provider, query: dict[str, str]) -> None:
    away = browser.post("/sign-in/sso/")
    state = parse_qs(urlsplit(away.url).query)["state"][0]
    answer = browser.get("/sign-in/oidc/sso/callback/", {"state": state} | query, follow=True)
    assert answer.redirect_chain[-1][0].startswith("/sign-in/")
    assert not User.objects.exists()
    assert "_auth_user_id" not in browser.session


def test_it_begins_by_post_alone(browser: Client, provider: Provider) -> None:
    assert browser.get("/sign-in/sso/", follow=True).redirect_chain[-1][0].startswith("/sign-in/?next=")
    assert provider.token_requests == []


@pytest.mark.parametrize(
    ("claimed", "names"),
    [
        (None, []),
        ("one", ["one"]),
        (["b", "a", "b"], ["a", "b"]),
        (["", 7, None, {"x": 1}, "x" * 151, "a\nb"], []),
    ],
)
def test_only_names_are_groups(claimed: Any, names: list[str]) -> None:
    assert groups_in({"groups": claimed}) == names
    assert Group.objects.count() == 0
