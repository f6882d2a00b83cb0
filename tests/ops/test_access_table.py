"""Every route of the site × everybody: no route is open by accident, and each scope opens what it should."""

from __future__ import annotations

import re
import uuid

import pytest
from django.core.management import call_command
from django.test import Client
from pytest_django.fixtures import Settings

from ops import keys
from ops.access_table import http_rows
from ops.checks import CHECKS_ITSELF, is_undeclared
from ops.contracts.principal import SYSTEM, Scope
from ops.routes import Route, routes

OPEN = {
    ("GET", "favicon.ico"),
    ("GET", "health/live"),
    ("GET", "health/ready"),
    ("GET", "sign-in/"),
    ("POST", "sign-in/"),
    ("POST", "sign-in/sso/"),
    ("GET", "sign-in/oidc/<str:provider_id>/callback/"),
    ("GET", "sign-in/ended/"),
    ("POST", "sign-out/"),
}
"""What anybody may call. A line more here is a decision, and belongs into docs/security.md."""

SAMPLES = {"int": "1", "uuid": str(uuid.UUID(int=1)), "slug": "nowhere", "str": "nowhere", "path": "nowhere"}


def address(route: Route) -> str:
    """A path that the route matches; what it names need not exist."""
    path = re.sub(r"<(?:(\w+):)?\w+>", lambda match: SAMPLES.get(match[1] or "str", "nowhere"), route.pattern)
    return "/" + path


@pytest.fixture
def stranger(settings: Settings) -> Client:
    settings.ENABLE_API_KEYS = True
    settings.ALLOW_ANONYMOUS = False
    settings.ALLOWED_HOSTS = ["zenglow.example"]
    return Client(SERVER_NAME="zenglow.example", REMOTE_ADDR="203.0.113.9", raise_request_exception=False)


def test_the_site_has_routes() -> None:
    assert {"rag/query2", "health/ready", "metrics", "search/"} <= {route.pattern for route in routes()}


def test_every_route_declares_who_may_use_it() -> None:
    assert [route.pattern for route in routes() if is_undeclared(route)] == []


def test_only_the_listed_routes_are_open() -> None:
    assert {(row.method, row.pattern) for row in http_rows() if row.opens_to(None)} == OPEN


@pytest.mark.django_db
def test_a_method_that_is_not_declared_does_not_exist(stranger: Client) -> None:
    """Whatever the view's class could do with it."""
    key = keys.create_key("table", [Scope.ADMIN], actor=SYSTEM).text
    for route in routes():
        for method in sorted({"POST", "PUT", "PATCH", "DELETE"} - set(route.requirements)):
            if route.requirements:
                response = stranger.generic(
                    method, address(route), b"{}", "application/json", headers={"x-api-key": key}
                )
                assert response.status_code == 405, (method, route.pattern, response.status_code)


@pytest.mark.django_db
def test_the_admin_leads_strangers_to_its_sign_in(stranger: Client) -> None:
    found = 0
    for route in routes():
        if route.app_name in CHECKS_ITSELF and "<" not in route.pattern and "(" not in route.pattern:
            response = stranger.get(address(route))
            is_sign_in = response.status_code == 200 and route.pattern == "admin/login/"
            assert response.status_code == 302 or is_sign_in, route.pattern
            found += 1
    assert found > 5


CALLERS: list[Scope | None] = [None, *Scope]


@pytest.mark.django_db
@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: caller.value if caller else "anybody")
def test_every_route_answers_whom_the_table_says_and_nobody_else(stranger: Client, caller: Scope | None) -> None:
    """Behind the door a request for things that don't exist may end in many ways, but not in a refusal or a fault."""
    headers = {}
    if caller is not None:
        headers["authorization"] = f"Bearer {keys.create_key('table', [caller], actor=SYSTEM).text}"
    tried = 0
    for row in http_rows():
        assert row.route is not None
        response = stranger.generic(row.method, address(row.route), b"{}", "application/json", headers=headers)
        seen = (row.method, row.pattern, response.status_code)
        if row.opens_to(caller):
            assert response.status_code not in {403, 405, 500}, seen
            is_sign_in = row.pattern == "sign-in/" and row.method == "POST"
            assert response.status_code != 401 or is_sign_in, seen
        elif caller is None:
            is_led_away = response.status_code == 302 and response.headers["Location"].startswith("/sign-in/")
            assert response.status_code == 401 or is_led_away, seen
        else:
            assert response.status_code == 403, seen
            assert response.json()["required_scope"] == row.needs.value
        tried += 1
    assert tried > 50


def test_the_published_table_is_the_one_that_is_tried() -> None:
    call_command("access", "--check")
