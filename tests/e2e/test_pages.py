"""The pages as a person uses them."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect
from pytest_django.fixtures import Settings

from rag.evaluation.measures import MEASURES
from rag.evaluation.rows import ROWS
from rag.models import EvaluationRun, Feedback
from tests.e2e.conftest import Backstage, OpenBrowser, Visitor

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

TEA = "# Tea\n\n## Brewing\n\nGreen tea is brewed with water of seventy degrees, for two minutes.\n"
COFFEE = "# Coffee\n\nAn espresso is brewed under nine bars of pressure within half a minute.\n"
ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}

DROP = """
([name, text]) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File([text], name, { type: "text/markdown" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
  }
}
"""

# However slow the browser is today, what it says can still be read and clicked.
TOASTS_STAY = """
const setTimer = window.setTimeout;
window.setTimeout = (call, ms, ...rest) => setTimer(call, ms >= 10_000 ? 3_600_000 : ms, ...rest);
"""


def ask(page: Page, query: str) -> None:
    page.get_by_role("searchbox", name="Search for").fill(query)
    page.keyboard.press("Enter")


class TestSearch:
    def test_an_answer_arrives_without_a_new_page(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA, "coffee.md": COFFEE})
        page = visitor.open("/search/")
        page.evaluate("window.sameDocument = true")
        expect(page.get_by_role("searchbox", name="Search for")).to_be_focused()
        ask(page, "espresso")
        expect(page.get_by_role("article")).to_have_count(2)
        expect(page.locator("article mark").first).to_have_text("espresso")
        expect(page).to_have_title("espresso · ZenGlow")
        expect(page.locator("#announcement")).to_have_text("2 results")
        assert page.evaluate("window.sameDocument")
        assert "q=espresso" in page.url

    def test_votes_and_opened_results_are_kept(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA})
        page = visitor.open("/search/?q=tea")
        vote = page.get_by_role("button", name="This helps", exact=True)
        vote.click()
        expect(vote).to_have_attribute("aria-pressed", "true")
        with page.expect_response("**/rag/feedback") as kept:
            page.locator("[data-result-link]").first.click(modifiers=["ControlOrMeta"])
        assert kept.value.status == 201
        found = backstage.do(lambda: sorted(Feedback.objects.values_list("kind", "value", "query")))
        assert found == [("click", 1, "tea"), ("vote", 1, "tea")]

    def test_the_address_leads_to_the_same_answer_and_back_again(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA})
        page = visitor.open("/search/")
        ask(page, "tea")
        expect(page.get_by_role("article")).to_have_count(1)
        ask(page, "brewed water")
        expect(page).to_have_title("brewed water · ZenGlow")
        page.reload()
        expect(page.get_by_role("searchbox", name="Search for")).to_have_value("brewed water")
        page.go_back()
        expect(page.get_by_role("searchbox", name="Search for")).to_have_value("tea")
        expect(page.get_by_role("article")).to_have_count(1)

    def test_another_collection_asks_again(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA}, collection="leaves")
        backstage.add({"coffee.md": COFFEE}, collection="beans")
        page = visitor.open("/search/?q=brewed&collection=leaves")
        expect(page.get_by_role("article").get_by_role("heading")).to_have_text("Tea")
        page.get_by_role("search").get_by_label("Collection").select_option("beans")
        expect(page.get_by_role("article").get_by_role("heading")).to_have_text("Coffee")
        assert "collection=beans" in page.url

    def test_keys_reach_everything(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA, "coffee.md": COFFEE})
        page = visitor.open("/search/?q=brewed")
        links = page.locator("[data-result-link]")
        box = page.get_by_role("searchbox", name="Search for")
        page.keyboard.press("j")
        expect(links.nth(0)).to_be_focused()
        page.keyboard.press("j")
        expect(links.nth(1)).to_be_focused()
        page.keyboard.press("k")
        page.keyboard.press("/")
        expect(box).to_be_focused()
        expect(box).to_have_value("brewed")
        page.keyboard.press("ArrowDown")
        expect(links.nth(0)).to_be_focused()
        page.keyboard.press("k")
        expect(box).to_be_focused()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator("#passage")).to_be_in_viewport()

    def test_why_a_passage_is_here_is_told_when_somebody_asks(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA, "coffee.md": COFFEE})
        page = visitor.open("/search/?q=brewed+tea")
        first, second = page.get_by_role("article").all()
        summary = first.get_by_text("Why here?")
        summary.focus()
        page.keyboard.press("Enter")
        plot = first.get_by_role("table").filter(has_text="Learned score")
        expect(plot.get_by_role("columnheader", name="Part")).to_be_visible()
        expect(plot.locator("tbody svg").first).to_be_visible()
        expect(first.get_by_text("meaning, place")).to_be_visible()
        expect(first.get_by_text("words, place")).to_be_visible()
        # What is more lies to the right of zero, what is less to the left.
        for kind, is_right in (("more", True), ("less", False)):
            for bar in plot.locator(f"rect.{kind}").all():
                box, whole = bar.bounding_box(), bar.locator("xpath=..").bounding_box()
                assert box is not None
                assert whole is not None
                middle = whole["x"] + whole["width"] / 2
                assert box["x"] >= middle - 1 if is_right else box["x"] + box["width"] <= middle + 1
        expect(summary).to_be_focused()
        expect(second.get_by_role("table").filter(has_text="Learned score")).to_have_count(0)
        page.keyboard.press("Enter")
        expect(plot).to_be_hidden()

    def test_a_refusal_stands_where_the_results_would(
        self, open_browser: OpenBrowser, backstage: Backstage, settings: Settings
    ) -> None:
        settings.RAG_QUERY_MAX_CHARACTERS = 8000
        backstage.add({"tea.md": TEA})
        visitor = open_browser()
        page = visitor.open("/search/?q=tea")
        ask(page, "x" * 9000)
        expect(page.locator("#results").get_by_role("alert")).to_contain_text("At most 8000 characters")
        assert visitor.faults  # the browser notes the answer's status
        visitor.faults.clear()

    def test_a_lost_server_is_told(self, open_browser: OpenBrowser, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA})
        visitor = open_browser()
        visitor.page.add_init_script(TOASTS_STAY)
        page = visitor.open("/search/")
        page.route("**/search/*", lambda route: route.abort())
        ask(page, "tea")
        expect(page.locator("#toasts")).to_contain_text("The server can't be reached")
        page.get_by_role("button", name="Dismiss").click()
        expect(page.locator("#toasts .toast")).to_have_count(0)
        visitor.faults.clear()


class TestDocuments:
    def test_chosen_files_are_sent_indexed_and_listed(
        self, visitor: Visitor, backstage: Backstage, tmp_path: Any
    ) -> None:
        (tmp_path / "tea.md").write_text(TEA)
        (tmp_path / "broken.pdf").write_text("no pdf")
        page = visitor.open("/documents/")
        page.get_by_role("link", name="Add documents").click()
        dialog = page.get_by_role("dialog", name="Add documents")
        dialog.get_by_label("Files").set_input_files([tmp_path / "tea.md", tmp_path / "broken.pdf"])
        dialog.get_by_role("button", name="Add", exact=True).click()
        tray = page.get_by_role("region", name="Uploads")
        expect(tray).to_contain_text("Indexing 2 documents")
        backstage.work_off()
        expect(tray).to_contain_text("1 added, 1 failed")
        expect(tray).to_contain_text("not a PDF file in spite of its name")
        expect(page.get_by_role("link", name="Tea", exact=True)).to_be_visible()
        expect(page.get_by_role("row", name="broken.pdf")).to_contain_text("Failed")

    def test_a_dropped_file_can_be_found_moments_later(self, visitor: Visitor, backstage: Backstage) -> None:
        page = visitor.open("/search/")
        expect(page.get_by_text("Nothing to search yet")).to_be_visible()
        page.evaluate(DROP, ["tea.md", TEA])
        expect(page.get_by_role("region", name="Uploads")).to_contain_text("Indexing 1 document")
        backstage.work_off()
        expect(page.get_by_text("1 document to search in default")).to_be_visible()
        ask(page, "how hot is the water for tea")
        expect(page.get_by_role("article")).to_have_count(1)

    def test_dragging_files_shows_where_they_go(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA}, collection="leaves")
        page = visitor.open("/search/?collection=leaves")
        page.evaluate(DROP.replace('["dragenter", "dragover", "drop"]', '["dragenter"]'), ["tea.md", TEA])
        expect(page.get_by_text("Drop to add to “leaves”")).to_be_visible()
        page.evaluate(DROP.replace('["dragenter", "dragover", "drop"]', '["dragleave"]'), ["tea.md", TEA])
        expect(page.get_by_text("Drop to add to “leaves”")).to_be_hidden()

    def test_a_deletion_is_undone_from_the_toast(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA, "coffee.md": COFFEE})
        visitor.page.add_init_script(TOASTS_STAY)
        page = visitor.open("/documents/")
        page.get_by_label("Actions for Tea").click()
        page.get_by_role("button", name="Delete").click()
        expect(page.get_by_role("row", name="Tea")).to_contain_text("Deleted")
        expect(page.locator("#toasts")).to_contain_text("“Tea” was deleted.")
        page.locator("#toasts").get_by_role("button", name="Undo").click()
        expect(page.locator("#toasts .toast")).to_have_count(0)
        backstage.work_off()
        expect(page.get_by_role("row", name="Tea")).to_contain_text("Indexed")

    def test_words_narrow_the_list_while_they_are_typed(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA, "coffee.md": COFFEE})
        page = visitor.open("/documents/")
        page.get_by_role("searchbox", name="Title, id or source").press_sequentially("coff")
        expect(page.locator("tbody tr")).to_have_count(1)
        expect(page.get_by_role("searchbox", name="Title, id or source")).to_be_focused()

    def test_a_menu_closes_with_escape_and_by_leaving_it(self, visitor: Visitor, backstage: Backstage) -> None:
        backstage.add({"tea.md": TEA})
        page = visitor.open("/documents/")
        summary = page.get_by_label("Actions for Tea")
        summary.click()
        expect(page.get_by_role("button", name="Delete")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Delete")).to_be_hidden()
        expect(summary).to_be_focused()
        summary.click()
        page.get_by_role("heading", name="Documents").click()
        expect(page.get_by_role("button", name="Delete")).to_be_hidden()


def measured(label: str, good: float) -> int:
    """A finished evaluation; its id."""
    values = {row: {f"q{i}": dict.fromkeys(MEASURES, good * i / 9) for i in range(10)} for row in ROWS}
    return EvaluationRun.objects.create(
        collection="default",
        label=label,
        dataset_sha256="0" * 64,
        total=10,
        done=10,
        snapshot={"ranker_label": label, "ltr_weight": 0.5, "conceptual_weight": 0.5},
        metrics={row: of["q5"] for row, of in values.items()},
        per_query=values,
    ).pk


class TestEvaluations:
    def test_two_of_the_list_are_compared(self, visitor: Visitor, backstage: Backstage) -> None:
        before, after = backstage.do(lambda: (measured("before", 0.4), measured("after", 0.6)))
        page = visitor.open("/search/")
        page.get_by_role("link", name="Evaluations").click()
        page.get_by_role("checkbox", name=f"Compare evaluation {before}").check()
        page.get_by_role("checkbox", name=f"Compare evaluation {after}").check()
        page.get_by_role("button", name="Compare two").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("after against before")
        plot = page.get_by_role("img", name="9 queries won, 1 tied, 0 lost")
        expect(plot).to_be_visible()
        # The largest difference reaches the top, the smallest stands lower, both on zero.
        whole = plot.bounding_box()
        first, last = (bar.bounding_box() for bar in (plot.locator("rect").first, plot.locator("rect").last))
        assert whole is not None
        assert first is not None
        assert last is not None
        assert first["height"] == pytest.approx(whole["height"] / 2, abs=1)
        assert last["height"] < first["height"] / 5
        assert first["y"] + first["height"] == pytest.approx(last["y"] + last["height"], abs=1)
        page.get_by_text("The queries that differ most").click()
        expect(page.get_by_role("row", name="q9")).to_contain_text("+0.200")


class TestLook:
    def test_the_colours_follow_the_system_until_somebody_chooses(
        self, open_browser: OpenBrowser, backstage: Backstage
    ) -> None:
        page = open_browser(color_scheme="dark").open("/search/")
        expect(page.locator("html")).to_have_attribute("data-theme", "dark")
        page.get_by_role("button", name="Switch to light colours").click()
        expect(page.locator("html")).to_have_attribute("data-theme", "light")
        page.reload()
        expect(page.locator("html")).to_have_attribute("data-theme", "light")

    @pytest.mark.parametrize("options", [PHONE, {"viewport": {"width": 1280, "height": 860}}], ids=["phone", "desk"])
    def test_no_page_is_wider_than_the_screen(
        self, open_browser: OpenBrowser, backstage: Backstage, options: dict[str, Any]
    ) -> None:
        long = "unbreakable" * 30
        backstage.add({f"{long}.py": f"def {long}(): pass\n", "tea.md": f"# {long}\n\n{long}\n"}, metadata={long: long})
        visitor = open_browser(**options)
        page = visitor.open("/search/?q=unbreakable&explain=1")
        before, after = backstage.do(lambda: (measured(long[:200], 0.4), measured(long[:200], 0.6)))
        pages = [
            f"/search/?q={long}&explain=1",
            "/search/",
            "/documents/",
            page.locator("[data-result-link]").first.get_attribute("href"),
            "/documents/collections/",
            "/documents/collections/default/",
            "/documents/runs/",
            "/documents/upload/",
            "/evaluations/",
            f"/evaluations/{before}/",
            f"/evaluations/compare/?run={before}&run={after}",
            "/sign-in/",
        ]
        for address in pages:
            visitor.open(str(address))
            page.evaluate("for (const one of document.querySelectorAll('details:not(.menu)')) one.open = true")
            assert page.evaluate("document.documentElement.scrollWidth") <= options["viewport"]["width"], address
        visitor.open("/search/")
        page.get_by_role("button", name="Add documents").click()
        dialog = page.get_by_role("dialog", name="Add documents")
        assert dialog.evaluate("(element) => element.scrollWidth <= element.clientWidth")


class TestSafety:
    def test_the_pages_need_nothing_that_a_strict_policy_forbids(
        self, open_browser: OpenBrowser, backstage: Backstage
    ) -> None:
        backstage.add({"tea.md": TEA, f"{ATTACK.replace('/', '')}.txt": ATTACK}, title=ATTACK, metadata={"a": ATTACK})
        visitor = open_browser()
        page = visitor.open("/search/?q=script+alert&explain=1")
        ask(page, "tea script")
        expect(page.get_by_role("article")).to_have_count(2)
        page.locator("[data-result-link]").first.click()
        expect(page.locator("#passage")).to_be_visible()
        run = backstage.do(lambda: measured(ATTACK, 0.5))
        evaluations = ("/evaluations/", f"/evaluations/{run}/")
        for address in ("/documents/", "/documents/collections/", "/documents/runs/", "/sign-in/", *evaluations):
            visitor.open(address)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
