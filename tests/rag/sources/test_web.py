"""Web pages: what a good guest does, and what a guarded server does not."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from ops.contracts.problems import InvalidRequest
from rag.models import SourceOutcome
from rag.sources.connectors.web import USER_AGENT, normalized, path_of
from tests.rag.sources.conftest import Make, ids, look, texts
from tests.rag.sources.places import HTML, Answer, Site, page

pytestmark = pytest.mark.django_db


def robots(text: str) -> Answer:
    return Answer(text.encode(), headers={"Content-Type": "text/plain"})


def test_pages_are_followed_below_the_first_ones_folder_on_the_same_site(site: Site, make: Make) -> None:
    site.answers |= {
        "/docs/": Answer(
            page(
                '<p>Start</p><a href="a.html#part">A</a><a href="/elsewhere.html">no</a>'
                '<a href="//other.example/">no</a><a rel="nofollow" href="hidden.html">no</a>'
                '<a href="mailto:x@example.org">no</a><a href="http://[">no</a>'
            ),
            headers=HTML,
        ),
        "/docs/a.html": Answer(page('<p>About bees</p><a href="deep/b.html">B</a><a href="./">up</a>'), headers=HTML),
        "/docs/deep/b.html": Answer(page("<p>About tea</p>"), headers=HTML),
    }
    source = look(make(site))
    assert ids() == {"shelf/docs/", "shelf/docs/a.html", "shelf/docs/deep/b.html"}
    assert {path for path, _ in site.asked} == {"/robots.txt", "/docs/", "/docs/a.html", "/docs/deep/b.html"}
    assert site.user_agents == {USER_AGENT}
    (document,) = source.collection.documents.filter(document_id="shelf/docs/a.html")
    assert (document.external_url, document.title) == (f"{site.origin}/docs/a.html", "Page")


def test_robots_txt_decides_what_is_asked_for(site: Site, make: Make) -> None:
    site.put("bees.txt", "Bees make honey.")
    site.put("private.txt", "A secret.")
    site.answers["/robots.txt"] = robots("User-agent: *\nDisallow: /docs/private*\n")
    source = look(make(site))
    assert ids() == {"shelf/docs/", "shelf/docs/bees.txt"}
    assert source.tally["left_out"] == {"is excluded by robots.txt": 1}
    assert ("/docs/private.txt", 200) not in site.asked
    site.answers["/robots.txt"] = robots("User-agent: ZenGlow\nDisallow: /\n")
    source = look(source)
    assert (source.outcome, "asks not to read" in source.error) == (SourceOutcome.FAILED, True)
    assert ids() == {"shelf/docs/", "shelf/docs/bees.txt"}


@pytest.mark.parametrize("status", [500, 503])
def test_a_site_whose_robots_txt_fails_is_left_alone(site: Site, make: Make, status: int) -> None:
    site.answers["/robots.txt"] = Answer(status=status)
    source = look(make(site))
    assert (source.outcome, "robots.txt" in source.error) == (SourceOutcome.FAILED, True)
    assert {path for path, _ in site.asked} == {"/robots.txt"}


def test_it_waits_between_two_requests_as_long_as_the_site_asks(
    site: Site, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag.sources.connectors import web

    waits: list[float] = []
    monkeypatch.setattr(web, "pause", waits.append)
    site.put("bees.txt", "Bees make honey.")
    site.answers["/robots.txt"] = robots("User-agent: *\nCrawl-delay: 7\n")
    look(make(site, options={"delay_s": 2}))
    assert waits == [7.0, 7.0], "before the start page and the text; robots.txt came first"


def test_what_has_not_changed_is_not_sent_again(site: Site, make: Make) -> None:
    site.put("bees.txt", "Bees make honey.")
    source = look(make(site))
    look(source)
    assert site.asked["/docs/bees.txt", 304] == 1
    assert site.asked["/docs/bees.txt", 200] == 1


def test_a_page_that_fails_keeps_its_document_and_those_it_led_to(site: Site, make: Make) -> None:
    site.answers |= {
        "/docs/": Answer(page('<p>Start</p><a href="a.html">A</a>'), headers=HTML),
        "/docs/a.html": Answer(page('<p>About bees</p><a href="b.html">B</a>'), headers=HTML),
        "/docs/b.html": Answer(page("<p>About tea</p>"), headers=HTML),
    }
    source = look(make(site))
    before = texts()
    site.answers["/docs/a.html"] = Answer(status=500)
    source = look(source)
    assert (source.outcome, source.tally["unreadable"], source.tally["gone"]) == (SourceOutcome.PARTIAL, 1, 0)
    assert texts() == before
    (item,) = source.items.exclude(fault="")
    assert (item.path, item.fault) == ("docs/a.html", "answers with HTTP 500")
    site.answers["/docs/a.html"] = Answer(page("<p>About bees</p>"), headers=HTML)
    source = look(source)
    assert (source.outcome, source.items.exclude(fault="").exists()) == (SourceOutcome.OK, False)
    assert ids() == {"shelf/docs/", "shelf/docs/a.html"}


def test_a_site_that_asks_to_come_back_later_is_left_alone_and_loses_nothing(site: Site, make: Make) -> None:
    for name in ("a.txt", "b.txt", "c.txt"):
        site.put(name, f"Text of {name}")
    source = look(make(site))
    before = texts()
    site.answers["/docs/a.txt"] = Answer(status=429)
    source = look(source)
    assert (source.outcome, "come back later" in source.error) == (SourceOutcome.PARTIAL, True)
    assert site.asked["/docs/b.txt", 304] == 0, "nothing was asked after that"
    assert texts() == before


def test_pages_that_ask_not_to_be_indexed_are_not(site: Site, make: Make) -> None:
    site.answers |= {
        "/docs/": Answer(
            page('<p>S</p><a href="a.html">A</a>', '<meta name="robots" content="noindex">'), headers=HTML
        ),
        "/docs/a.html": Answer(
            page('<p>About bees</p><a href="b.html">B</a>', '<meta name="ROBOTS" content="NoFollow">'), headers=HTML
        ),
        "/docs/b.html": Answer(page("<p>About tea</p>"), headers=HTML),
    }
    look(make(site))
    assert ids() == {"shelf/docs/a.html"}
    site.answers["/docs/a.html"] = Answer(page("<p>x</p>"), headers=HTML | {"X-Robots-Tag": "none"})


def test_a_sitemap_names_the_pages_also_by_an_index_and_compressed(site: Site, make: Make) -> None:
    site.put("bees.txt", "Bees make honey.")
    site.put("tea.txt", "Green tea wants 70 degrees.")
    namespace = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'
    site.answers |= {
        "/sitemap.xml": Answer(
            f"<sitemapindex {namespace}><sitemap><loc>{site.origin}/one.xml.gz</loc></sitemap></sitemapindex>".encode()
        ),
        "/one.xml.gz": Answer(
            gzip.compress(
                f"<urlset {namespace}><url><loc>{site.origin}/docs/bees.txt</loc></url>"
                f"<url><loc>{site.origin}/docs/tea.txt</loc></url>"
                "<url><loc>http://other.example/page.txt</loc></url></urlset>".encode()
            )
        ),
    }
    source = look(make(site, location=f"{site.origin}/sitemap.xml", options={"mode": "sitemap"}))
    assert ids() == {"shelf/docs/bees.txt", "shelf/docs/tea.txt"}
    site.answers["/one.xml.gz"] = Answer(b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>')
    source = look(source)
    assert (source.outcome, "is no sitemap" in source.error or "is no XML" in source.error) == (
        SourceOutcome.FAILED,
        True,
    )


@pytest.mark.parametrize(("options", "told"), [({"max_pages": 2}, "first 2 pages"), ({"max_depth": 0}, "")])
def test_bounds_are_kept(site: Site, make: Make, options: dict[str, Any], told: str) -> None:
    for name in ("a.txt", "b.txt"):
        site.put(name, f"Text of {name}")
    source = look(make(site, options=options))
    assert told in source.error
    assert len(ids()) <= 2


def test_only_this_page_means_only_this_page(site: Site, make: Make) -> None:
    site.put("bees.txt", "Bees make honey.")
    look(make(site, options={"mode": "page"}))
    assert ids() == {"shelf/docs/"}


def test_what_is_no_document_or_too_large_is_left_out(site: Site, make: Make, settings: Any) -> None:
    settings.RAG_DOCUMENT_MAX_BYTES = 2000
    site.answers |= {
        "/docs/": Answer(
            page('<p>Start</p><a href="a.bin">A</a><a href="b.txt">B</a><a href="c.txt">C</a>'), headers=HTML
        ),
        "/docs/a.bin": Answer(b"\x00\x01", headers={"Content-Type": "application/octet-stream"}),
        "/docs/b.txt": Answer(b"x" * 2001, headers={"Content-Type": "text/plain"}),
        "/docs/c.txt": Answer(gzip.compress(b"y" * 2_000_000), headers={"Content-Encoding": "gzip"}),
    }
    source = look(make(site))
    assert ids() == {"shelf/docs/"}
    assert source.tally["left_out"] == {"application/octet-stream files cannot be read": 1}
    assert {item.fault for item in source.items.exclude(fault="")} == {"is larger than 0.00190735 MB"}


def test_a_redirect_leads_nowhere_else(site: Site, make: Make) -> None:
    other = Site()
    other.put("inside.txt", "What is inside.")
    site.answers |= {
        "/docs/": Answer(
            page('<p>S</p><a href="out.txt">O</a><a href="moved.txt">M</a><a href="loop.txt">L</a>'), headers=HTML
        ),
        "/docs/out.txt": Answer(status=302, headers={"Location": f"{other.origin}/docs/inside.txt"}),
        "/docs/moved.txt": Answer(status=301, headers={"Location": "new.txt"}),
        "/docs/new.txt": Answer(b"It has moved.", headers={"Content-Type": "text/plain"}),
        "/docs/loop.txt": Answer(status=302, headers={"Location": "loop.txt"}),
    }
    source = look(make(site))
    other.close()
    assert ids() == {"shelf/docs/", "shelf/docs/new.txt"}
    assert not other.asked
    (fault,) = source.items.exclude(fault="")
    assert (fault.path, "on and on" in fault.fault) == ("docs/loop.txt", True)


def test_addresses_of_the_private_network_are_not_called(site: Site, make: Make, settings: Any) -> None:
    settings.OPS_OUTGOING_ALLOWED = ()
    source = look(make(site))
    assert (source.outcome, "no public address" in source.error) == (SourceOutcome.FAILED, True)
    assert not site.asked


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"location": "ftp://example.org/"}, "location"),
        ({"location": "https://user:secret@example.org/"}, "location"),
        ({"location": "https://example.org:port/"}, "location"),
        ({"options": {"mode": "all"}}, "options.mode"),
        ({"options": {"max_pages": 0}}, "options.max_pages"),
        ({"options": {"delay_s": True}}, "options.delay_s"),
        ({"options": {"exclude": "a"}}, "options.exclude"),
        ({"options": {"depth": 1}}, "options.depth"),
        ({"secret": "../token"}, "secret"),
    ],
)
def test_what_is_wrong_with_it_is_said_when_it_is_made(
    site: Site, make: Make, changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        make(site, **changes)
    assert list(refusal.value.errors) == [field]


@pytest.mark.parametrize(
    ("url", "same"),
    [
        ("HTTP://Example.ORG:80", "http://example.org/"),
        ("https://example.org/a?b=1#c", "https://example.org/a?b=1"),
        ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
        ("javascript:alert(1)", None),
        ("https://example.org/\x00", None),
        ("http://[", None),
        ("https://example.org/" + "x" * 400, None),
    ],
)
def test_an_address_has_one_spelling(url: str, same: str | None) -> None:
    assert normalized(url) == same


def test_a_page_is_known_by_its_path_and_query() -> None:
    assert path_of("https://example.org/a/b?c=d") == "a/b?c=d"
    assert path_of("https://example.org/") == ""
