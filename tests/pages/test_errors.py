"""Error pages look like the product, and never ask what is broken."""

from __future__ import annotations

import pytest
from django.db import OperationalError
from django.test import Client

from tests.pages.html import assert_inert, one, parse, text_of


@pytest.mark.django_db
def test_an_unknown_address_leads_back(visitor: Client) -> None:
    response = visitor.get('/nowhere/"><script>alert(1)</script>')
    assert response.status_code == 404
    assert_inert(response)
    page = parse(response)
    assert one(page, "h1").text == "This page does not exist"
    assert one(page, "#problem a").get("href") == "/"
    assert one(page, "#problem code").text == response.headers["X-Request-ID"]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OperationalError("secret: no connection"), 503, "The database can't be reached"),
        (RuntimeError("secret: bug"), 500, "The log has the details"),
    ],
)
def test_a_fault_says_what_to_do_and_nothing_of_the_inside(
    visitor: Client, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, words: str
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("rag.pages.search.summarize_collections", fail)
    response = visitor.get("/search/")
    assert response.status_code == status
    assert words in text_of(response)
    assert "secret" not in response.content.decode()
    assert_inert(response)


@pytest.mark.django_db
def test_the_page_of_a_lost_database_needs_no_database(
    visitor: Client, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: object
) -> None:
    def fail(*arguments: object) -> None:
        raise OperationalError

    monkeypatch.setattr("ops.middleware.resolve_principal", fail)
    with django_assert_num_queries(0):  # type: ignore[operator]
        response = visitor.get("/search/")
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert one(parse(response), "#problem a").get("href") == ""
