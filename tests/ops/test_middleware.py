from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest
import structlog
from django.contrib.auth.models import Group, User
from django.test import AsyncClient, Client
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from ops.contracts.principal import Scope

pytestmark = [pytest.mark.urls("tests.ops.probe_urls"), pytest.mark.django_db]


def assert_problem(response: object, status: int) -> dict[str, object]:
    assert response.status_code == status, response.content  # type: ignore[attr-defined]
    assert response.headers["Content-Type"] == "application/problem+json"  # type: ignore[attr-defined]
    body = json.loads(response.content)  # type: ignore[attr-defined]
    assert body["status"] == status
    assert body["request_id"] == response.headers["X-Request-ID"]  # type: ignore[attr-defined]
    return body


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [cast(dict[str, Any], record.msg) for record in caplog.records if record.name == "zenglow.request"]


class TestRequestId:
    def test_it_gives_each_request_a_time_ordered_uuid(self, keys_off: None, local: Client) -> None:
        first, second = (local.get("/rag/echo").headers["X-Request-ID"] for _ in range(2))
        assert uuid.UUID(first).version == uuid.UUID(second).version == 7
        assert first != second
        assert first[:8] <= second[:8]

    def test_it_echoes_a_sane_correlation_id(self, keys_off: None, local: Client) -> None:
        response = local.get("/rag/echo", headers={"x-correlation-id": "order-7.retry:2"})
        assert response.headers["X-Correlation-ID"] == "order-7.retry:2"

    @pytest.mark.parametrize("offered", ["", "a b", "x" * 129, "line\nbreak", "<script>", "é", "ada@example.org"])
    def test_it_replaces_a_correlation_id_that_is_not_plain(self, keys_off: None, local: Client, offered: str) -> None:
        response = local.get("/rag/echo", headers={"x-correlation-id": offered})
        assert response.headers["X-Correlation-ID"] == response.headers["X-Request-ID"]

    def test_it_writes_one_line_for_each_request_without_the_query_string(
        self, keys_off: None, local: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            response = local.get("/rag/echo?q=what+somebody+asked")
        lines = [record.msg for record in caplog.records if record.name == "zenglow.request"]
        assert len(lines) == 1
        assert lines[0]["request_id"] == response.headers["X-Request-ID"]
        assert (lines[0]["path"], lines[0]["status"]) == ("/rag/echo", 200)
        assert "somebody" not in str(lines)

    def test_the_line_of_a_stream_is_written_once_it_has_ended_with_all_the_time_that_it_took(
        self, keys_off: None, local: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            response = local.get("/page/stream/")
            assert request_lines(caplog) == []
            assert response.getvalue() == b"one two"  # type: ignore[attr-defined]
            response.close()
        (line,) = request_lines(caplog)
        assert line["request_id"] == line["correlation_id"] == response.headers["X-Request-ID"]
        assert (line["path"], line["status"], line["collection"]) == ("/page/stream/", 200, "papers")
        assert line["duration_ms"] >= 50
        assert structlog.contextvars.get_contextvars() == {}

    def test_the_line_of_a_stream_that_is_broken_off_is_written_then(
        self, keys_off: None, local: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            response = local.get("/page/stream/")
            assert next(iter(response)) == b"one "
            assert request_lines(caplog) == []
            response.close()
        (line,) = request_lines(caplog)
        assert line["request_id"] == response.headers["X-Request-ID"]

    def test_streams_that_are_sent_at_the_same_time_keep_their_own_ids(
        self, keys_off: None, local: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO):
            first, second = (local.get("/page/stream/") for _ in range(2))
            second.close()
            first.close()
        written = [line["request_id"] for line in request_lines(caplog)]
        assert written == [second.headers["X-Request-ID"], first.headers["X-Request-ID"]]

    async def test_it_works_under_asgi_and_keeps_concurrent_requests_apart(self, settings: Settings) -> None:
        settings.ENABLE_API_KEYS = False
        client = AsyncClient(SERVER_NAME="127.0.0.1", REMOTE_ADDR="127.0.0.1")
        responses = await asyncio.gather(
            *(client.get("/page/open/", headers={"x-correlation-id": f"c{i}"}) for i in range(5))
        )
        assert [response.headers["X-Correlation-ID"] for response in responses] == [f"c{i}" for i in range(5)]
        assert len({response.headers["X-Request-ID"] for response in responses}) == 5


class TestPrincipal:
    def test_it_takes_a_loopback_peer_with_a_loopback_host_as_whoever_sits_here(
        self, keys_off: None, local: Client
    ) -> None:
        assert local.get("/rag/echo").json() == {"principal": "anonymous", "kind": "anonymous"}
        assert local.get("/rag/echo", SERVER_NAME="localhost").status_code == 200
        assert local.get("/rag/echo", headers={"host": "[::1]:8000"}, REMOTE_ADDR="::1").status_code == 200
        assert local.get("/rag/echo", REMOTE_ADDR="::ffff:127.0.0.1").status_code == 200

    def test_it_refuses_a_peer_from_elsewhere_while_keys_are_off(self, keys_off: None, remote: Client) -> None:
        assert_problem(remote.get("/rag/echo"), 401)

    def test_it_does_not_believe_a_forwarding_header(self, keys_off: None, remote: Client, local: Client) -> None:
        assert_problem(remote.get("/rag/echo", headers={"x-forwarded-for": "127.0.0.1"}), 401)
        assert_problem(local.get("/rag/echo", headers={"x-forwarded-for": "127.0.0.1"}), 401)

    def test_it_refuses_a_name_that_only_resolves_to_this_machine(
        self, keys_off: None, local: Client, settings: Settings
    ) -> None:
        settings.ALLOWED_HOSTS = ["*"]
        assert_problem(local.get("/rag/echo", headers={"host": "rebound.example"}), 401)
        assert_problem(local.get("/rag/echo", headers={"host": "localhost.rebound.example"}), 401)

    def test_it_lets_everybody_in_only_when_that_was_asked_for(
        self, keys_off: None, remote: Client, settings: Settings
    ) -> None:
        settings.ALLOW_ANONYMOUS = True
        assert remote.get("/rag/echo").status_code == 200

    def test_it_refuses_a_loopback_peer_while_keys_are_on(self, keys_on: None, local: Client) -> None:
        body = assert_problem(local.get("/rag/echo"), 401)
        assert "API key" in str(body["detail"])
        assert local.get("/rag/echo").headers["WWW-Authenticate"].startswith("Bearer")

    @pytest.mark.parametrize("header", ["authorization", "x-api-key"])
    def test_it_takes_a_key_from_either_header(
        self, keys_on: None, remote: Client, key_with: Callable[..., str], header: str
    ) -> None:
        key = key_with(Scope.QUERY)
        value = f"Bearer {key}" if header == "authorization" else key
        response = remote.get("/rag/echo", headers={header: value})
        assert response.json() == {"principal": key.split("_")[1], "kind": "api_key"}

    def test_it_refuses_a_bad_key_even_where_none_is_needed(
        self, keys_off: None, local: Client, key_with: Callable[..., str]
    ) -> None:
        key = key_with(Scope.ADMIN)
        wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
        for text in (wrong, "zg_short", "", "x" * 5000):
            assert_problem(local.get("/rag/echo", headers={"authorization": f"Bearer {text}"}), 401)

    def test_it_refuses_a_key_without_the_scope(
        self, keys_on: None, remote: Client, key_with: Callable[..., str]
    ) -> None:
        response = remote.post("/rag/echo", headers={"x-api-key": key_with(Scope.QUERY)})
        assert assert_problem(response, 403)["required_scope"] == "ingest"

    def test_it_gives_staff_every_right_and_others_the_everyday_ones(
        self, keys_on: None, remote: Client, person: User
    ) -> None:
        remote.force_login(person)
        assert remote.get("/rag/echo").json() == {"principal": "ada", "kind": "user"}
        assert_problem(remote.get("/metrics/basic"), 403)
        person.is_staff = True
        person.save()
        assert remote.get("/metrics/basic").status_code == 200

    def test_it_knows_the_groups_of_a_person(self, person: User) -> None:
        from ops.authentication import user_principal

        person.groups.add(Group.objects.create(name="research"))
        principal = user_principal(person)
        assert principal.groups == {"research"}
        assert principal.user_id == person.pk
        assert not principal.has_scope(Scope.ADMIN)

    def test_it_refuses_a_view_that_declares_no_scope(self, keys_off: None, local: Client) -> None:
        assert_problem(local.get("/rag/forgotten"), 403)
        assert local.get("/page/forgotten/").status_code == 403

    def test_it_answers_a_method_that_is_not_declared_with_405(self, keys_off: None, local: Client) -> None:
        assert_problem(local.delete("/rag/echo"), 405)
        assert local.put("/page/").status_code == 405

    def test_it_leads_people_to_the_sign_in_page_and_back(self, keys_on: None, remote: Client) -> None:
        response = remote.get("/page/?q=1", headers={"accept": "text/html"})
        assert response.status_code == 302
        assert response.headers["Location"] == "/page/sign-in/?next=/page/%3Fq%3D1"
        assert remote.get("/page/", headers={"hx-request": "true"}).headers["HX-Redirect"] == "/page/sign-in/"

    def test_it_leaves_open_views_open(self, keys_on: None, remote: Client) -> None:
        assert remote.get("/page/open/").status_code == 200
        assert remote.get("/page/sign-in/").status_code == 200
        assert remote.get("/health/live").json() == {"status": "ok"}


class TestOtherSites:
    """A page of another site must not use the rights of the browser that shows it."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"origin": "https://evil.example"},
            {"origin": "null"},
            {"origin": "http://127.0.0.1:3000"},
            {"sec-fetch-site": "cross-site"},
            {"sec-fetch-site": "same-site"},
        ],
    )
    def test_it_refuses_to_change_anything_for_one(
        self, keys_off: None, local: Client, headers: dict[str, str]
    ) -> None:
        response = local.post("/rag/echo", {"text": "a"}, content_type="application/json", headers=headers)
        assert_problem(response, 403)
        assert local.get("/rag/echo", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        "headers", [{}, {"origin": "http://127.0.0.1"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}]
    )
    def test_it_serves_its_own_pages_and_programs(self, keys_off: None, local: Client, headers: dict[str, str]) -> None:
        response = local.post("/rag/echo", {"text": "a"}, content_type="application/json", headers=headers)
        assert response.status_code == 200

    def test_it_serves_a_trusted_origin(self, keys_off: None, local: Client, settings: Settings) -> None:
        settings.CSRF_TRUSTED_ORIGINS = ["https://*.zenglow.example"]
        for origin, status in (("https://app.zenglow.example", 200), ("http://app.zenglow.example", 403)):
            response = local.post(
                "/rag/echo", {"text": "a"}, content_type="application/json", headers={"origin": origin}
            )
            assert response.status_code == status

    def test_it_lets_a_key_be_used_from_any_site(
        self, keys_on: None, remote: Client, key_with: Callable[..., str]
    ) -> None:
        headers = {"origin": "https://app.example", "x-api-key": key_with(Scope.INGEST)}
        response = remote.post("/rag/echo", {"text": "a"}, content_type="application/json", headers=headers)
        assert response.status_code == 200

    def test_it_wants_the_csrf_token_from_a_signed_in_person(self, keys_on: None, person: User) -> None:
        client = Client(SERVER_NAME="127.0.0.1", enforce_csrf_checks=True)
        client.force_login(person)
        body = {"data": '{"text": "a"}', "content_type": "application/json"}
        assert_problem(client.post("/rag/echo", **body), 403)
        token = "a" * 32
        client.cookies["csrftoken"] = token
        assert client.post("/rag/echo", **body, headers={"x-csrftoken": token}).status_code == 200


class TestFaults:
    def test_it_never_shows_the_text_of_an_exception(
        self, keys_off: None, local: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        api, page = local.get("/rag/faulty/value"), local.get("/page/faulty/value/")
        assert assert_problem(api, 500)["type"] == "urn:zenglow:problem:internal-error"
        assert page.status_code == 500
        assert page.headers["Content-Type"].startswith("text/html")
        assert page.headers["X-Request-ID"] in page.text
        assert "secret" not in api.text + page.text
        assert "the secret text of an exception" in caplog.text

    def test_it_answers_a_lost_database_with_when_to_come_back(self, keys_off: None, local: Client) -> None:
        api, page = local.get("/rag/faulty/database"), local.get("/page/faulty/database/")
        assert_problem(api, 503)
        assert page.status_code == 503
        assert api.headers["Retry-After"] == page.headers["Retry-After"] == "5"

    def test_it_answers_what_is_not_there_in_the_same_way_everywhere(self, keys_off: None, local: Client) -> None:
        assert_problem(local.get("/rag/faulty/missing"), 404)
        assert_problem(local.get("/rag/no-such-route"), 404)
        assert_problem(local.get("/no-such-page/", headers={"accept": "application/json"}), 404)
        page = local.get("/no-such-page/")
        assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")

    def test_it_keeps_a_problems_own_members_and_headers(self, keys_off: None, local: Client) -> None:
        body = assert_problem(local.get("/rag/faulty/conflict"), 409)
        assert (body["holder"], body["instance"]) == ("ada", "/rag/faulty/conflict")
        assert local.get("/rag/faulty/busy").headers["Retry-After"] == "7"

    def test_it_refuses_nul_characters_in_the_address(self, keys_off: None, local: Client) -> None:
        assert_problem(local.get("/rag/%00"), 400)
        assert_problem(local.get("/rag/echo?q=%00"), 400)

    def test_it_refuses_a_host_that_is_not_served(self, keys_off: None, local: Client) -> None:
        response = local.get("/rag/echo", headers={"host": "elsewhere.example"})
        assert "host name" in str(assert_problem(response, 400)["detail"])

    def test_it_names_every_faulty_field(self, keys_off: None, local: Client) -> None:
        response = local.post("/rag/echo", {"text": "much too long", "numbers": [1, -1]}, "application/json")
        errors = assert_problem(response, 400)["errors"]
        assert set(errors) == {"text", "numbers.1"}  # type: ignore[call-overload]

    def test_it_says_which_body_it_reads(self, keys_off: None, local: Client) -> None:
        assert_problem(local.post("/rag/echo", "<a/>", "application/xml"), 415)
        assert_problem(local.get("/rag/echo", headers={"accept": "image/png"}), 406)


class TestASession:
    def test_it_answers_503_when_the_database_is_lost_before_the_view(
        self, keys_on: None, remote: Client, person: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The session is read by Django's own middleware; its failure must look the same."""
        from django.contrib.sessions.backends.db import SessionStore
        from django.db import OperationalError

        def fail(self: SessionStore) -> None:
            raise OperationalError("gone")

        remote.force_login(person)
        monkeypatch.setattr(SessionStore, "load", fail)
        assert_problem(remote.get("/rag/echo"), 503)
        assert remote.get("/health/live").status_code == 200

    def test_it_needs_no_database_for_a_caller_without_a_session(
        self, keys_off: None, local: Client, django_assert_num_queries: DjangoAssertNumQueries
    ) -> None:
        with django_assert_num_queries(0):
            assert local.get("/rag/echo").status_code == 200
