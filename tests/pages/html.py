"""Reading pages as a browser does."""

from __future__ import annotations

from collections.abc import Iterator

import lxml.html
from django.http import HttpResponse
from lxml.html import HtmlElement

EMBEDDING = {"style", "iframe", "object", "embed", "base"}


def parse(response: HttpResponse) -> HtmlElement:
    """The document of a response."""
    return lxml.html.document_fromstring(response.content.decode())


def text_of(response: HttpResponse) -> str:
    """What a person reads, white space folded."""
    return " ".join(parse(response).text_content().split())


def one(page: HtmlElement, selector: str) -> HtmlElement:
    """The only element that fits."""
    found = page.cssselect(selector)
    assert len(found) == 1, f"{len(found)} elements fit {selector}"
    return found[0]


def elements(page: HtmlElement) -> Iterator[HtmlElement]:
    return (element for element in page.iter() if isinstance(element.tag, str))


def assert_inert(response: HttpResponse) -> None:
    """Nothing in the page runs or styles itself inline, so that nothing that was put in could, either."""
    for element in elements(parse(response)):
        assert element.tag not in EMBEDDING, element.tag
        for name in element.attrib:
            assert not name.startswith("on"), f"{element.tag} has {name}"
            assert name != "style", f"{element.tag} has a style"
        if element.tag == "script":
            assert element.get("src", "").startswith("/static/")
            assert not element.text
        if element.tag == "img":
            assert element.get("src", "").startswith("/static/")
        for name in ("href", "action", "src"):
            scheme, colon, _ = element.get(name, "").partition(":")
            assert not colon or scheme in {"http", "https"} or "/" in scheme or "?" in scheme, element.get(name)
