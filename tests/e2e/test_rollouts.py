"""An operator's day with a rollout: from the sliders to a share of the traffic, to everything, and back in a click."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from playwright.sync_api import expect

from models_registry import deployments, rollouts, statistics, weights
from models_registry.live import view
from models_registry.models import Slot
from ops.contracts.principal import SYSTEM
from rag import query_log
from rag.feedback import Given, give
from rag.models import FeedbackKind
from rag.pipeline.search import SearchRequest, search
from tests.e2e.conftest import Backstage, Visitor
from tests.e2e.test_weights import bake, signed_in

__all__ = ["bake"]

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


LEAST_QUERIES = 60


@pytest.fixture(autouse=True)
def _nothing_counted_yet(embedded_stack: object, settings: Any) -> Iterator[None]:
    settings.REGISTRY_REFRESH_INTERVAL_MS = 0
    query_log._writer.cache_clear()
    statistics.recorder().forget()
    statistics.forget()
    yield
    statistics.recorder().forget()
    statistics.forget()
    query_log._writer.cache_clear()


def traffic(answers_of_the_candidate: int) -> Counter[str]:
    """People search until the candidate has answered so often; they click on every second answer, whoever gave it."""
    asked: Counter[str] = Counter()
    while asked["canary"] < answers_of_the_candidate or asked.total() < LEAST_QUERIES:
        answer = search(SearchRequest("bake bread", collection="bake"), SYSTEM)
        asked[answer["variant"]] += 1
        if asked[answer["variant"]] % 2:
            shown = answer["results"][0]["chunk_id"]
            give(Given(UUID(answer["request_id"]), shown, FeedbackKind.CLICK), SYSTEM)
    statistics.recorder().flush()
    return asked


def live_ltr() -> float:
    row = deployments.effective(Slot.WEIGHTS, "global")
    assert row is not None
    assert row.weights is not None
    return row.weights.normalized[0]


def test_from_the_sliders_to_everybody_and_back_by_one_click(
    visitor: Visitor, backstage: Backstage, bake: None
) -> None:
    backstage.do(lambda: weights.change(weights.propose(0.6, 0.4), by=SYSTEM, reason="a steady one"))
    page = signed_in(visitor, backstage)
    page.get_by_role("spinbutton", name="Learned").fill("0.7")
    expect(page.get_by_role("spinbutton", name="Conceptual")).to_have_value("0.3")
    page.get_by_label("Why").fill("more clicks in the trial")
    page.get_by_label("for", exact=True).fill("5")
    page.get_by_role("button", name="Save as canary").click()

    expect(page.locator("#figures")).to_contain_text("5 % of the traffic")
    expect(page.locator("#figures")).to_contain_text("more clicks in the trial")
    view.expire()
    asked = backstage.do(lambda: traffic(2))
    assert asked["stable"] > 2 * asked["canary"], "one in twenty"
    answers = page.get_by_role("row", name="Answers")
    expect(answers.get_by_role("cell").nth(0)).to_have_text(str(asked["canary"]))  # the page follows by itself
    expect(answers.get_by_role("cell").nth(1)).to_have_text(f"{asked['stable']:,}")
    expect(page.get_by_role("row", name="Click-through").get_by_role("cell").nth(0)).to_contain_text("%")
    expect(page.get_by_role("row", name="click_rate")).to_contain_text("waits for 100")

    page.get_by_label("Why").fill("as good, and clicked on more")
    page.get_by_role("button", name="Promote").click()
    expect(page.locator("#figures")).to_contain_text("Promoted")
    assert backstage.do(live_ltr) == pytest.approx(0.7)

    page.get_by_label("Why").fill("complaints")
    page.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text("back to")).to_be_visible()
    expect(page.get_by_role("button", name="Roll back")).to_have_count(0)
    assert backstage.do(live_ltr) == pytest.approx(0.6)

    page.goto(f"{visitor.address}/admin/models_registry/fusionweights/")
    history = page.locator(".weights-history")
    for told in ("complaints", "as good, and clicked on more", "a steady one", "ada"):
        expect(history).to_contain_text(told)
    assert backstage.do(lambda: rollouts.everything().get().by) == "ada"
