"""The search page."""

from __future__ import annotations

import math

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import start_run
from rag.models import Collection
from rag.pipeline.features import SCHEMA
from tests.pages.conftest import AddDocuments, SignIn, work_off
from tests.pages.html import assert_inert, one, parse, text_of

pytestmark = pytest.mark.django_db

TEA = "# Tea\n\n## Brewing\n\nGreen tea is brewed with water of seventy degrees, for two minutes.\n"
COFFEE = "# Coffee\n\nAn espresso is brewed under nine bars of pressure within half a minute.\n"

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"


def test_the_front_page_leads_to_the_search(visitor: Client) -> None:
    page = parse(visitor.get("/", {"q": "tea"}))
    assert "Search instead" in [link.text_content().strip() for link in page.cssselect("a[href='/search/']")]
    assert one(page, "#question").text == "tea"


class TestResults:
    def test_it_shows_the_passage_with_its_words_marked(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        result = one(parse(visitor.get("/search/?q=how+to+brew+tea")), "article.result")
        assert one(result, "h2 a").text_content() == "Tea"
        assert [mark.text for mark in result.cssselect(".snippet mark")] == ["Tea", "Brewing", "tea", "brewed"]
        assert one(result, ".trail").text_content() == "Brewing"
        assert "tea.md" in one(result, ".origin").text_content()

    def test_the_bars_are_the_parts_of_the_fused_score(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA, "coffee.md": COFFEE})
        page = parse(visitor.get("/search/?q=brew+tea"))
        for result in page.cssselect("article.result"):
            learned, meaning = (float(bar.get("width")) for bar in result.cssselect(".score rect"))
            fused = float(result.cssselect(".score .value")[0].text)
            assert (learned + meaning) / 100 == pytest.approx(fused, abs=0.006)
            assert [float(bar.get("x")) for bar in result.cssselect(".score rect")] == [0.0, learned]

    def test_it_shows_how_the_answer_came_about(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        response = visitor.get("/search/?q=tea")
        side = one(parse(response), "aside")
        shown = " ".join(side.text_content().split())
        for words in ("Embedding", "Retrieval", "Features", "Fusion", "ms in all", "Computed afresh", "learned"):
            assert words in shown
        assert one(side, ".identifier").text == response.headers["X-Request-ID"]

    def test_it_says_that_an_answer_came_from_the_cache(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        visitor.get("/search/?q=tea")
        assert "Answer from the cache" in text_of(visitor.get("/search/?q=tea"))

    def test_the_title_leads_to_the_passage_in_its_document(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": TEA})["tea.md"]
        link = parse(visitor.get("/search/?q=degrees")).cssselect("h2 a")[0].get("href")
        assert link.startswith(f"/documents/{document.pk}/?start=")
        marked = one(parse(visitor.get(link)), "#passage").text
        assert "seventy degrees" in marked

    def test_it_links_to_the_original_and_to_the_web_page(self, visitor: Client, add_documents: AddDocuments) -> None:
        document = add_documents({"tea.md": TEA}, external_url="https://tea.example/brewing")["tea.md"]
        tools = parse(visitor.get("/search/?q=tea")).cssselect(".tools a")
        targets = [link.get("href") for link in tools]
        assert f"/documents/{document.pk}/original/" in targets
        assert "https://tea.example/brewing" in targets
        assert all("noopener" in link.get("rel") for link in tools if link.get("target"))

    def test_it_searches_the_chosen_collection(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA}, collection="leaves")
        add_documents({"coffee.md": COFFEE}, collection="beans")
        page = parse(visitor.get("/search/?q=brewed&collection=beans"))
        assert [link.text_content() for link in page.cssselect("h2 a")] == ["Coffee"]
        assert one(page, "form[role=search] option[selected]").get("value") == "beans"

    def test_the_link_to_a_search_repeats_it(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA}, collection="leaves")
        address = "/search/?q=tea+%26+milk&collection=leaves&group=document&explain=1"
        page = parse(visitor.get(address))
        link = next(a.get("href") for a in page.cssselect("aside a") if "Link to this search" in a.text_content())
        again = parse(visitor.get(f"/search/{link}"))
        assert one(again, "#query").get("value") == "tea & milk"
        assert one(again, "input[name=group]").get("checked") is not None
        assert one(again, "input[name=explain]").get("checked") is not None

    def test_it_explains_a_score_by_its_features(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        assert not parse(visitor.get("/search/?q=tea")).cssselect(".features")
        features = one(parse(visitor.get("/search/?q=tea&explain=1")), ".features")
        assert "bm25" in [name.text for name in features.cssselect("dt")]

    def test_the_plot_of_a_learned_score_adds_up_in_its_table(
        self, visitor: Client, add_documents: AddDocuments
    ) -> None:
        add_documents({"tea.md": TEA, "coffee.md": COFFEE, "milk.md": "# Milk\n\nMilk goes into tea, some say."})
        page = parse(visitor.get("/search/?q=how+to+brew+tea&explain=1"))
        tables = page.cssselect("article.result table.contributions")
        assert len(tables) == 3
        for table in tables:
            rows = table.cssselect("tbody tr")
            parts = [float(row.cssselect("td")[-1].text_content().replace("−", "-")) for row in rows]
            total = float(one(table, "tfoot td:last-child").text_content().replace("−", "-"))
            assert sum(parts) == pytest.approx(total, abs=0.0005 * (len(parts) + 1))
            for row, part in zip(rows, parts, strict=True):
                drawn = row.cssselect("svg rect:not(.ground)")
                if drawn and part:
                    assert drawn[0].get("class") == ("more" if part > 0 else "less")
                    right = float(drawn[0].get("x")) + float(drawn[0].get("width"))
                    assert (float(drawn[0].get("x")) if part > 0 else right) == pytest.approx(100, abs=0.02)
            # The plot is decoration of a table that says the same in words.
            assert {svg.get("aria-hidden") for svg in table.cssselect("svg")} <= {"true"}

    def test_each_feature_of_the_plot_says_what_it_means(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA, "coffee.md": COFFEE})
        page = parse(visitor.get("/search/?q=brew+tea&explain=1"))
        named = page.cssselect("table.contributions th[scope=row]:has(code)")
        assert named
        meanings = {feature.name: feature.meaning for feature in SCHEMA}
        for head in named:
            assert one(head, ".meaning").text == meanings[one(head, "code").text]

    def test_a_result_is_explained_only_when_somebody_asks(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        page = parse(visitor.get("/search/?q=tea"))
        assert not page.cssselect("table.contributions")
        (why,) = page.cssselect("article details[hx-get]")
        assert "explain=1" in why.get("hx-get")
        assert why.get("hx-trigger") == "toggle once"
        assert one(page, why.get("hx-target")).cssselect("a[href*='explain=1']")

    def test_it_turns_the_pages(self, visitor: Client, add_documents: AddDocuments, settings: Settings) -> None:
        settings.RAG_TOP_K_DEFAULT = 2
        add_documents({f"tea-{number}.md": f"# Tea {number}\n\nTea number {number}." for number in range(3)})
        first = parse(visitor.get("/search/?q=tea"))
        assert one(first, "nav.pages span.numeric").text == "1 – 2"
        following = one(first, "nav.pages a").get("href")
        second = parse(visitor.get(f"/search/{following}"))
        titles = [link.text_content() for page in (first, second) for link in page.cssselect("h2 a")]
        assert sorted(titles) == ["Tea 0", "Tea 1", "Tea 2"]
        assert "That was all" in text_of(visitor.get("/search/?q=tea&offset=10"))

    def test_it_says_what_is_degraded(
        self, visitor: Client, add_documents: AddDocuments, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_documents({"tea.md": TEA})
        monkeypatch.setattr("rag.pipeline.cache._skip_until", math.inf)  # as after a failed call to Redis
        page = parse(visitor.get("/search/?q=tea"))
        assert "The cache can't be reached" in one(page, ".notice.warn").text_content()
        assert page.cssselect("article.result")


class TestNothingFound:
    def test_it_says_how_to_add_documents_when_there_are_none(self, visitor: Client) -> None:
        shown = text_of(visitor.get("/search/"))
        assert "Nothing to search yet" in shown
        assert "manage.py index" in shown
        assert "curl" in shown
        assert "http://127.0.0.1/rag/documents" in shown
        assert "Bearer" not in shown

    def test_the_line_for_the_shell_sends_a_key_where_one_is_needed(self, sign_in: SignIn) -> None:
        assert 'curl -H "Authorization: Bearer $ZENGLOW_API_KEY"' in text_of(sign_in().get("/search/"))

    def test_it_names_the_empty_collection(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        Collection.objects.create(slug="travel", title="Travel notes")
        shown = text_of(visitor.get("/search/?collection=travel&q=tea"))
        assert "Nothing in Travel notes yet" in shown
        assert "--collection travel" in shown

    def test_it_says_that_documents_are_on_their_way(self, visitor: Client) -> None:
        home = Collection.objects.create(slug="default")
        run = start_run(home, [Offer("tea.md", TEA.encode(), source="tea.md")], SYSTEM, "command", enqueue=False)
        page = parse(visitor.get("/search/"))
        assert "found as soon as they are done" in one(page, ".nothing .notice").text_content()
        assert one(page, ".nothing .notice a").get("href") == "/documents/runs/"
        work_off(run)
        assert parse(visitor.get("/search/")).cssselect(".nothing") == []

    def test_it_does_not_show_how_to_add_to_somebody_who_may_not(
        self, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from ops import authentication
        from ops.contracts.principal import Scope

        monkeypatch.setattr(authentication, "USER_SCOPES", frozenset({Scope.QUERY}))
        page = parse(sign_in().get("/search/"))
        assert "Ask somebody who may add documents" in page.text_content()
        assert not page.cssselect("[data-open-upload], #upload-dialog")

    def test_an_unknown_collection_is_named(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        response = visitor.get("/search/?q=tea&collection=nowhere")
        assert response.status_code == 404
        assert "There is no collection “nowhere”" in text_of(response)

    def test_a_query_that_is_too_long_is_refused_with_the_limit(
        self, visitor: Client, add_documents: AddDocuments, settings: Settings
    ) -> None:
        settings.RAG_QUERY_MAX_CHARACTERS = 20
        add_documents({"tea.md": TEA})
        response = visitor.get("/search/", {"q": "a" * 21})
        assert response.status_code == 400
        assert "At most 20 characters" in one(parse(response), ".notice.bad[role=alert]").text_content()

    def test_htmx_shows_a_refusal_in_place_of_the_results(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        response = visitor.get("/search/?q=tea&offset=99999", headers={"HX-Request": "true"})
        assert response.status_code == 400
        assert response.headers["HX-Retarget"] == "#results"
        assert response.headers["HX-Reselect"] == "#results"

    @pytest.mark.parametrize("offset", ["-1", "x", "9" * 30, "١", ""])
    def test_an_offset_that_is_no_number_counts_as_none(
        self, visitor: Client, add_documents: AddDocuments, offset: str
    ) -> None:
        add_documents({"tea.md": TEA})
        assert visitor.get("/search/", {"q": "tea", "offset": offset}).status_code == 200


class TestSafety:
    def test_nothing_of_a_document_becomes_html(self, visitor: Client, add_documents: AddDocuments) -> None:
        name = f"{ATTACK}.txt".replace("/", "")
        add_documents(
            {name: f"tea {ATTACK} tea"},
            title=f"Tea {ATTACK}",
            metadata={ATTACK: ATTACK, "list": [ATTACK]},
            external_url="javascript:alert(3)",
        )
        response = visitor.get("/search/?q=tea+script+alert&explain=1")
        assert_inert(response)
        shown = text_of(response)
        assert "<script>" in shown
        assert "onerror=" in shown
        assert "javascript:" not in response.content.decode()

    def test_nothing_of_a_request_becomes_html(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        for name in ("q", "collection", "group", "explain", "offset"):
            response = visitor.get("/search/", {"q": "tea", name: ATTACK})
            assert_inert(response)
        assert one(parse(visitor.get("/search/", {"q": ATTACK})), "#query").get("value") == ATTACK

    def test_the_parts_of_the_page_have_names(self, visitor: Client, add_documents: AddDocuments) -> None:
        add_documents({"tea.md": TEA})
        page = parse(visitor.get("/search/?q=tea"))
        assert one(page, "html").get("lang")
        assert one(page, "form[role=search] label[for=query]").text
        assert one(page, ".skip-link").get("href") == "#content"
        for button in page.cssselect("button, summary"):
            assert button.text_content().strip() or button.get("aria-label"), button.get("class")
        for control in page.cssselect("select, input:not([type=hidden])"):
            is_named = control.get("aria-label") or control.getparent().tag == "label"
            assert is_named or page.cssselect(f"label[for={control.get('id')}]"), control.get("name")
