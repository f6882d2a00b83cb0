"""Every page in a real browser under the policies that the server sends: what they forbid is a fault in its console."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.headers import content_security_policy
from ops.routes import routes
from tests.e2e.conftest import Backstage, Visitor
from tests.patience import eventually

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

TEA = "# Tea\n\n## Brewing\n\nGreen tea is brewed with water of seventy degrees.\n"
PASSWORD = "a long password for ada"
NO_PAGES = (
    "api/schema",
    "config/",
    "health/",
    "metrics",
    "rag/",
    "registry/",
    "v1/",
    "leonardo/",
    "mcp",
    "admin/jsi18n",
    "dashboard/data",
    "favicon.ico",
)


def pages() -> list[str]:
    """The address of every page that is reached without naming a thing, the admin's included."""
    found = []
    for route in routes():
        reads = "GET" in route.requirements or route.app_name == "admin"
        if reads and not any(sign in route.pattern for sign in "<(") and not route.pattern.startswith(NO_PAGES):
            found.append("/" + route.pattern)
    return found


def sign_in(visitor: Visitor, backstage: Backstage) -> None:
    backstage.do(lambda: User.objects.create_superuser("ada", password=PASSWORD))
    page = visitor.open("/sign-in/")
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("textbox", name="Your question")).to_be_visible()


def test_no_page_needs_what_the_policy_forbids(visitor: Visitor, backstage: Backstage) -> None:
    backstage.add({"tea.md": TEA})
    key = backstage.do(lambda: keys.create_key("ada's", [Scope.QUERY], actor=SYSTEM).record)
    sign_in(visitor, backstage)
    shown = set()
    for address in [*pages(), f"/admin/ops/apikey/{key.pk}/change/"]:
        answer = visitor.page.request.get(visitor.address + address)
        assert answer.headers["content-security-policy"] == content_security_policy()
        assert answer.status < 500, (address, answer.status)
        if answer.status >= 400:
            continue  # it wants more than its address, or is closed to everybody, such as adding to the audit trail
        visitor.page.goto(visitor.address + address)
        visitor.page.wait_for_load_state("load")
        assert visitor.faults == [], (address, visitor.faults)
        shown.add(address)
    assert {"/search/", "/documents/", "/dashboard/", "/admin/", "/admin/ops/apikey/add/", "/api/docs/"} <= shown


def test_swagger_ui_shows_and_tries_the_api(visitor: Visitor, backstage: Backstage) -> None:
    sign_in(visitor, backstage)
    page = visitor.open("/api/docs/")
    operation = page.locator("#operations-health-health_live")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table")).to_contain_text('"status": "ok"')


def test_what_somebody_smuggles_into_a_page_does_not_run(visitor: Visitor, backstage: Backstage) -> None:
    """As if escaping had failed: the policy is the second wall."""
    page = visitor.open("/search/")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.ran = true";
            document.body.append(script);
            const picture = document.createElement("img");
            picture.setAttribute("onerror", "window.ran = true");
            picture.src = "/nowhere.png";
            document.body.append(picture);
        }"""
    )
    # Not `wait_for_function`, which the policy may take for an evaluation of the page's own.
    eventually(lambda: bool(page.evaluate("document.querySelector('img[onerror]').complete")))
    assert page.evaluate("window.ran") is None
    assert any("Content Security Policy" in fault for fault in visitor.faults)
    visitor.faults.clear()
