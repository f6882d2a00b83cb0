"""The admin's page for fusion weights as an operator uses it."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client
from playwright.sync_api import Page, expect

from models_registry import deployments, weights
from models_registry.models import FusionWeights, Slot
from ops.contracts.principal import SYSTEM
from rag.evaluation import weights as measuring
from tests.e2e.conftest import Backstage, OpenBrowser, Visitor
from tests.e2e.test_pages import PHONE
from tests.rag.evaluation.support import judged_subject

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

PATH = "/admin/models_registry/fusionweights/"


def signed_in(visitor: Visitor, backstage: Backstage) -> Page:
    """The page, as somebody who may do everything sees it."""

    def session() -> str:
        client = Client()
        client.force_login(User.objects.get_or_create(username="ada", is_staff=True, is_superuser=True)[0])
        return client.cookies[settings.SESSION_COOKIE_NAME].value

    cookie: Any = {"name": settings.SESSION_COOKIE_NAME, "value": backstage.do(session), "url": visitor.address}
    visitor.page.context.add_cookies([cookie])
    return visitor.open(PATH)


@pytest.fixture
def bake(backstage: Backstage) -> None:
    """Judged documents, and two versions of the weights."""

    def work() -> None:
        judged_subject("bake", "bake", queries=3)
        weights.change(weights.propose(0.6, 0.4), by=SYSTEM, reason="a start")
        weights.change(weights.propose(0.8, 0.2), by=SYSTEM, reason="more learning")

    backstage.do(work)


def live(backstage: Backstage) -> FusionWeights:
    row = backstage.do(lambda: deployments.effective(Slot.WEIGHTS, "global"))
    assert row is not None
    assert row.weights is not None
    return row.weights


@pytest.mark.usefixtures("bake")
class TestWeights:
    def test_two_sliders_always_sum_to_one(self, visitor: Visitor, backstage: Backstage) -> None:
        page = signed_in(visitor, backstage)
        learned, conceptual = page.get_by_role("slider", name="Learned"), page.get_by_role("slider", name="Conceptual")
        expect(page.get_by_role("spinbutton", name="Learned")).to_have_value("0.8")
        learned.focus()
        for _ in range(10):
            page.keyboard.press("ArrowLeft")
        expect(page.get_by_role("spinbutton", name="Learned")).to_have_value("0.7")
        expect(page.get_by_role("spinbutton", name="Conceptual")).to_have_value("0.3")
        expect(conceptual).to_have_value("30")
        expect(page.locator("[data-summary]")).to_have_text("−10 points of learned weight against now")
        page.get_by_role("spinbutton", name="Conceptual").fill("0.25")
        expect(learned).to_have_value("75")
        page.get_by_role("button", name="Reset").click()
        expect(learned).to_have_value("80")
        expect(page.locator("[data-summary]")).to_have_text("These are the weights that are live.")

    def test_a_query_is_compared_while_the_sliders_move(self, visitor: Visitor, backstage: Backstage) -> None:
        page = signed_in(visitor, backstage)
        page.get_by_role("searchbox", name="Query to compare").fill("how long does the dough rest")
        lists = page.locator("#preview ol")
        expect(lists).to_have_count(2)
        expect(page.locator("#preview")).to_contain_text("in the same order")
        page.get_by_role("spinbutton", name="Learned").fill("0")
        expect(page.locator("#preview .weights-moved .is-more, #preview .weights-moved .is-less").first).to_be_visible()
        expect(page.locator("#preview")).not_to_contain_text("in the same order")

    def test_both_weights_are_measured_with_progress(self, visitor: Visitor, backstage: Backstage) -> None:
        page = signed_in(visitor, backstage)
        page.get_by_role("spinbutton", name="Learned").fill("0.5")
        with page.expect_response("**/measure/") as asked:
            page.get_by_role("button", name="Measure nDCG@10").click()
        expect(page.locator("#measurement progress")).to_be_visible()
        found = asked.value.text().split("measure/")[1].split("/")[0]
        backstage.do(lambda: measuring.perform(found))
        figures = page.locator("#measurement dl")
        expect(figures).to_contain_text("Now (0.80)")
        expect(figures).to_contain_text("Proposed (0.50)")
        expect(page.locator("#measurement polyline")).to_be_visible()
        at_sliders = page.locator("[data-at-sliders]")
        before = page.locator("[data-proposed]").get_attribute("x1")
        page.get_by_role("slider", name="Learned").focus()
        page.keyboard.press("Home")
        assert page.locator("[data-proposed]").get_attribute("x1") == "0"
        assert before == "50"
        expect(at_sliders).to_have_text(page.locator("[data-curve]").get_attribute("data-curve").split(" ")[0])  # type: ignore[union-attr]

    def test_weights_go_live_and_back_by_keyboard_alone(self, visitor: Visitor, backstage: Backstage) -> None:
        page = signed_in(visitor, backstage)
        page.get_by_role("slider", name="Learned").focus()
        page.keyboard.press("ArrowLeft")
        page.get_by_label("Why").focus()
        page.keyboard.type("try it")
        page.keyboard.press("Enter")
        expect(page.locator(".messagelist")).to_contain_text("Live everywhere")
        assert (live(backstage).ltr, live(backstage).author) == (0.79, "ada")
        row = page.locator(".weights-history").get_by_role("row").nth(1)
        expect(row).to_contain_text("-1 points")
        expect(row).to_contain_text("try it")
        page.get_by_role("button", name="Roll back to 0.80 / 0.20").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".messagelist")).to_contain_text("Back everywhere")
        assert live(backstage).ltr == 0.8

    def test_an_older_version_is_tried_before_it_is_used(self, visitor: Visitor, backstage: Backstage) -> None:
        page = signed_in(visitor, backstage)
        page.get_by_role("row", name="a start").get_by_role("button", name="Try").click()
        expect(page.get_by_role("spinbutton", name="Learned")).to_have_value("0.6")
        assert live(backstage).ltr == 0.8

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_it_fits_a_phone_in_every_colour(
        self, open_browser: OpenBrowser, backstage: Backstage, scheme: str
    ) -> None:
        visitor = open_browser(color_scheme=scheme, **PHONE)
        page = signed_in(visitor, backstage)
        page.get_by_role("searchbox", name="Query to compare").fill("dough")
        expect(page.locator("#preview ol")).to_have_count(2)
        expect(page.get_by_role("slider", name="Learned")).to_be_visible()
        width = page.evaluate("document.querySelector('.weights-page').scrollWidth")
        assert width <= page.evaluate("document.querySelector('.weights-page').clientWidth")
