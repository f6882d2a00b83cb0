"""The chat in a real browser, over real websockets: asking, reading, checking, comparing, keeping."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from playwright.sync_api import Page, WebSocketRoute, expect

from rag.answers.backends import http
from rag.models import Conversation, Preference
from tests.e2e.conftest import Backstage, OpenBrowser, Visitor, accessibility_faults
from tests.patience import PATIENCE_S
from tests.rag.answers.model_server import ModelServer

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]

TEA = (
    "# Tea\n\n## Brewing\n\nGreen tea is brewed with water of seventy degrees. Black tea takes boiling water. "
    "Leave green tea for two minutes, and black tea for four.\n"
)
HONEY = "# Honey\n\nHoney is nectar that bees have thickened and stored in combs. It keeps for many years.\n"
GREEN = "Green tea is brewed with water of seventy degrees."


@pytest.fixture(scope="session")
def daphne_address() -> Iterator[str]:
    """Daphne with our routes, on a thread of this process: it sees the tests' database. A reactor can't start twice."""
    from channels.routing import ProtocolTypeRouter
    from daphne.server import Server
    from twisted.internet import reactor

    from zenglow_site.handler import asgi_application
    from zenglow_site.routing import websocket_application

    http = ASGIStaticFilesHandler(asgi_application())
    application = ProtocolTypeRouter({"http": http, "websocket": websocket_application()})
    ready = threading.Event()
    server = Server(
        application,
        endpoints=["tcp:port=0:interface=127.0.0.1"],
        signal_handlers=False,
        ready_callable=ready.set,
        server_name="",
    )
    thread = threading.Thread(target=server.run, name="daphne", daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    yield f"http://127.0.0.1:{server.listening_addresses[0][1]}"
    reactor.callFromThread(reactor.stop)  # type: ignore[attr-defined]
    thread.join(PATIENCE_S)


@pytest.fixture
def chat(visitor: Visitor, backstage: Backstage, daphne_address: str) -> Page:
    """The chat over two documents."""
    backstage.add({"tea.md": TEA, "honey.md": HONEY})
    visitor.address = daphne_address
    page = visitor.open("/")
    expect(page.locator("#chat[data-ready]")).to_be_attached()
    return page


def ask(page: Page, question: str) -> Any:
    """Ask, and wait for every answer of the new turn."""
    page.get_by_role("textbox", name="Your question").fill(question)
    page.keyboard.press("Enter")
    turn = page.locator(".turn").last
    expect(turn.locator(".question")).to_contain_text(question)
    expect(turn.locator(".answer-card[aria-busy=false]").first).to_be_visible()
    expect(turn.locator(".answer-card[aria-busy=true]")).to_have_count(0)
    return turn


def test_an_answer_cites_the_passage_that_opens_beside_it_and_is_kept(chat: Page, backstage: Backstage) -> None:
    turn = ask(chat, "How hot is the water for green tea?")
    expect(turn.locator(".answer-body")).to_contain_text(GREEN)
    expect(turn.get_by_text("Quoted from your documents")).to_be_visible()

    cite = turn.locator(".cite").first
    cite.hover()
    expect(chat.get_by_role("tooltip")).to_contain_text(GREEN)
    cite.click()
    panel = chat.get_by_role("complementary", name="Source")
    expect(panel.locator("mark")).to_have_text(GREEN)
    chat.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(cite).to_be_focused()

    turn.locator("summary").click()
    expect(turn.get_by_text("Search ", exact=False).first).to_be_visible()

    address = chat.url
    assert "/c/" in address
    chat.reload()
    expect(chat.locator(".answer-body")).to_contain_text(GREEN)
    expect(chat.locator("#conversations [aria-current]")).to_have_text("How hot is the water for green tea?")
    assert backstage.do(Conversation.objects.count) == 1


def test_two_agents_answer_beside_each_other_and_one_is_better(chat: Page, backstage: Backstage) -> None:
    chat.get_by_label("Two agents").check()
    turn = ask(chat, "How long does honey keep?")
    expect(turn.locator(".answer-card")).to_have_count(2)
    turn.get_by_role("button", name="Right is better").click()
    expect(turn.get_by_role("button", name="Right is better")).to_have_attribute("aria-pressed", "true")
    verdict = backstage.do(lambda: Preference.objects.get().verdict)
    assert verdict == "right"


def test_a_question_is_edited_and_what_nothing_answers_says_so(chat: Page) -> None:
    ask(chat, "Who won the chess championship of 1972?")
    expect(chat.locator(".answer-body")).to_contain_text("I found nothing in")
    chat.get_by_role("textbox", name="Your question").press("ArrowUp")
    editor = chat.get_by_label("Edit the question")
    editor.fill("What is honey?")
    editor.press("Enter")
    expect(chat.locator(".turn")).to_have_count(1)
    expect(chat.locator(".answer-body")).to_contain_text("Honey is nectar that bees have thickened")


def test_a_connection_that_breaks_in_the_middle_loses_no_word(
    visitor: Visitor, backstage: Backstage, daphne_address: str
) -> None:
    backstage.add({"tea.md": TEA})
    heard: list[int] = []
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        """Hand on what is said; the first connection breaks after three events."""
        is_first = not sockets
        sockets.append(socket)
        server = socket.connect_to_server()
        broken: list[bool] = []

        def forward(message: str | bytes) -> None:
            told = json.loads(message)
            if broken:
                return
            if told["type"] == "event":
                if is_first and told["number"] > 3:
                    broken.append(True)
                    socket.close(code=1012)
                    return
                heard.append(told["number"])
            socket.send(message)

        server.on_message(forward)
        socket.on_message(server.send)

    visitor.page.route_web_socket(re.compile(r"/ws/chat$"), through)
    visitor.address = daphne_address
    turn = ask(visitor.open("/"), "How hot is the water for green tea?")
    expect(turn.locator(".answer-body")).to_contain_text(GREEN)
    assert len(sockets) >= 2
    assert heard == list(range(1, len(heard) + 1))


def test_conversations_are_searched_shared_and_deleted(chat: Page, backstage: Backstage) -> None:
    ask(chat, "How hot is the water for green tea?")
    chat.get_by_label("Search in conversations").fill("honey")
    expect(chat.locator("#conversations")).to_contain_text("No conversation says this.")
    chat.get_by_label("Search in conversations").fill("seventy")
    expect(chat.locator("#conversations a")).to_have_count(1)

    chat.get_by_role("button", name="Share").click()
    expect(chat.get_by_role("button", name="Shared")).to_be_visible()
    link = backstage.do(lambda: Conversation.objects.get().share_id)
    other = chat.context.new_page()
    other.goto(chat.url.split("/c/")[0] + f"/shared/{link}/")
    expect(other.locator(".answer-body")).to_contain_text(GREEN)
    expect(other.get_by_role("textbox", name="Your question")).to_have_count(0)
    other.close()

    chat.get_by_role("button", name="Delete this conversation").click()
    chat.get_by_role("button", name="Delete", exact=True).click()
    expect(chat.locator(".turn")).to_have_count(0)
    assert backstage.do(Conversation.objects.count) == 0


HOSTILE = (
    "# Notes\n\nThe hive note says <img src=x onerror=alert(1)> and [x](javascript:alert(2)) and "
    "<script>alert(3)</script> today.\n"
)


def test_what_a_document_says_is_text_and_never_runs(chat: Page, backstage: Backstage) -> None:
    backstage.add({"notes.md": HOSTILE})
    turn = ask(chat, "What does the hive note say today?")
    expect(turn.locator(".answer-body")).to_contain_text("The hive note says")
    assert turn.locator(".answer-body :is(img, script, a[href^='javascript'])").count() == 0


@pytest.fixture
def models(settings: Any) -> Iterator[ModelServer]:
    """A server for the model of the agent Leonardo."""
    server = ModelServer()
    settings.REGISTRY_OLLAMA_URLS = (server.url,)
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    settings.RAG_MODEL_CONNECT_TIMEOUT_S = settings.RAG_MODEL_FIRST_TOKEN_TIMEOUT_S = PATIENCE_S
    http.forget_breakers()
    yield server
    server.close()
    http.forget_breakers()


def test_an_answer_is_stopped_in_the_middle_and_tried_again(chat: Page, models: ModelServer) -> None:
    models.words, models.fault = ["Seventy ", "degrees ", "[1", "]."], "drip"
    chat.get_by_label("Agent on the left").select_option("leonardo")
    chat.get_by_role("textbox", name="Your question").fill("How hot is the water for green tea?")
    chat.keyboard.press("Enter")
    card = chat.locator(".answer-card")
    expect(card.locator(".answer-body")).to_contain_text("Seventy degrees degrees")
    card.get_by_role("button", name="Stop").click()
    expect(card).to_contain_text("You stopped this answer. It is not whole.")
    expect(card.locator(".answer-body")).to_contain_text("Seventy degrees")
    assert models.was_left.wait(PATIENCE_S), "the model was stopped, too"

    models.fault = ""
    card.get_by_role("button", name="Try again").click()
    expect(chat.locator(".answer-body")).to_have_text("Seventy degrees 1.")
    expect(chat.locator(".turn")).to_have_count(1)
    expect(chat.locator(".answer-status")).to_have_text("mistral:7b")


def test_a_model_that_breaks_off_leaves_what_there_was_and_says_what_to_do(chat: Page, models: ModelServer) -> None:
    models.words, models.fault = ["Seventy ", "degrees ", "or so."], "cut"
    chat.get_by_label("Agent on the left").select_option("leonardo")
    turn = ask(chat, "How hot is the water for green tea?")
    expect(turn.locator(".answer-body")).to_contain_text("Seventy")
    expect(turn.locator(".notice.bad")).to_contain_text("Try again, or choose another agent.")
    chat.reload()
    expect(chat.locator(".answer-body")).to_contain_text("Seventy")
    expect(chat.locator(".notice.bad")).to_contain_text("The answer stopped in the middle")


def test_a_model_whose_server_is_down_is_said_and_the_documents_are_quoted(chat: Page, models: ModelServer) -> None:
    models.close()
    chat.get_by_label("Agent on the left").select_option("leonardo")
    turn = ask(chat, "How hot is the water for green tea?")
    expect(turn.locator(".answer-body")).to_contain_text(GREEN)
    expect(turn.locator(".answer-status")).to_have_text("Quoted from your documents")
    turn.locator(".timing summary").click()
    expect(turn.locator(".timing-notes")).to_contain_text("ollama/mistral:7b: ")
    expect(turn.get_by_role("button", name="Try again")).to_be_visible()


RICH = """| tea | degrees |
| --- | --- |
| green | 70 |

```python
boil(70)
```

The heat is $Q = m c \\Delta T$ <img src=x onerror=alert(1)> [a page](javascript:alert(2)) and costs $5 or $6. [1]"""


def test_tables_code_and_formulas_are_set_and_nothing_in_them_runs(chat: Page, models: ModelServer) -> None:
    models.words = [RICH]
    chat.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.get_by_label("Agent on the left").select_option("leonardo")
    turn = ask(chat, "How hot is the water for green tea?")
    body = turn.locator(".answer-body")
    expect(body.locator("table td").first).to_have_text("green")
    expect(body.locator("pre code")).to_have_text("boil(70)")
    expect(body.locator("math")).to_have_count(1)
    expect(body).to_contain_text("costs $5 or $6")
    expect(body.locator(".cite")).to_have_count(1)
    assert body.locator("img, script, a[href^='javascript']").count() == 0
    assert accessibility_faults(chat) == []

    turn.get_by_role("button", name="Copy").click()
    expect(turn.get_by_role("button", name="Copied")).to_be_visible()
    assert chat.evaluate("() => navigator.clipboard.readText()") == RICH


def test_a_file_dropped_on_the_page_can_be_asked_about(chat: Page, backstage: Backstage) -> None:
    chat.evaluate(
        """() => {
          const dropped = new DataTransfer();
          dropped.items.add(new File(["Oolong tea is steeped at ninety degrees."], "oolong.txt", {type: "text/plain"}));
          for (const type of ["dragenter", "dragover", "drop"])
            document.body.dispatchEvent(new DragEvent(type, {dataTransfer: dropped, bubbles: true, cancelable: true}));
        }"""
    )
    expect(chat.locator("#upload-tray")).to_contain_text("oolong.txt")
    expect(chat.locator("#upload-tray [data-upload-answer]")).to_be_visible()
    backstage.work_off()
    expect(ask(chat, "How hot is oolong tea steeped?").locator(".answer-body")).to_contain_text("ninety degrees")


def test_the_health_pill_explains_itself(chat: Page) -> None:
    pill = chat.locator("#health")
    expect(pill.locator("summary")).to_have_text("All well")
    pill.locator("summary").click()
    expect(pill.get_by_role("status")).to_contain_text(re.compile("searche"))
    assert accessibility_faults(chat) == []
    chat.evaluate("() => { window.fetch = () => Promise.reject(new TypeError('away')); }")
    chat.evaluate("() => document.dispatchEvent(new Event('visibilitychange'))")
    expect(pill.locator("summary")).to_have_text("No answer")
    expect(pill.get_by_role("status")).to_contain_text("Your question is kept and sent when it is back.")


def test_a_question_that_was_on_its_way_when_the_connection_broke_is_in_the_box_again(
    visitor: Visitor, backstage: Backstage, daphne_address: str
) -> None:
    backstage.add({"tea.md": TEA})
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        server = socket.connect_to_server()
        if len(sockets) == 1:  # breaks with the first question
            socket.on_message(lambda message: socket.close(code=1012))
        else:
            socket.on_message(server.send)
            server.on_message(socket.send)

    visitor.page.route_web_socket(re.compile(r"/ws/chat$"), through)
    visitor.address = daphne_address
    page = visitor.open("/")
    page.get_by_role("textbox", name="Your question").fill("How hot is the water for green tea?")
    page.keyboard.press("Enter")
    expect(page.get_by_text("It is in the box again.")).to_be_visible()
    expect(page.get_by_role("textbox", name="Your question")).to_have_value("How hot is the water for green tea?")
    expect(page.locator(".turn")).to_have_count(0)
    page.get_by_role("textbox", name="Your question").press("Enter")
    expect(page.locator(".answer-body")).to_contain_text(GREEN)


@pytest.mark.parametrize(("width", "color_scheme"), [(360, "dark"), (1280, "light")])
def test_nobody_is_shut_out(
    open_browser: OpenBrowser, backstage: Backstage, daphne_address: str, color_scheme: str, width: int
) -> None:
    backstage.add({"tea.md": TEA, "honey.md": HONEY})
    visitor = open_browser(viewport={"width": width, "height": 800}, color_scheme=color_scheme)
    visitor.address = daphne_address
    page = visitor.open("/")
    expect(page.locator("#chat[data-ready]")).to_be_attached()
    assert accessibility_faults(page) == []
    page.get_by_label("Two agents").check()
    turn = ask(page, "How hot is the water for green tea?")
    expect(turn.get_by_role("button", name="A tie")).to_be_visible()
    turn.locator("summary").first.click()
    assert accessibility_faults(page) == []
    turn.locator(".cite").first.click()
    expect(page.get_by_role("complementary", name="Source").locator("mark")).to_be_visible()
    assert accessibility_faults(page) == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_it_is_all_there_on_a_phone_in_the_dark(
    open_browser: OpenBrowser, backstage: Backstage, daphne_address: str
) -> None:
    backstage.add({"tea.md": TEA})
    visitor = open_browser(viewport={"width": 360, "height": 740}, color_scheme="dark")
    visitor.address = daphne_address
    page = visitor.open("/")
    ask(page, "How hot is the water for green tea?")
    width = page.evaluate("() => [document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    page.get_by_role("button", name="Conversations", exact=True).click()
    expect(page.get_by_role("link", name="New conversation")).to_be_visible()
