"""Signing in and out, and changing the password."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests.pages.conftest import SignIn
from tests.pages.html import assert_inert, one, parse, text_of
from zenglow_site import accounts

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


@pytest.fixture
def wanda() -> User:
    return User.objects.create_user("wanda", password=PASSWORD)


def attempt(client: Client, password: str = "wrong", name: str = "wanda", **extra: str) -> int:
    return client.post("/sign-in/", {"username": name, "password": password, **extra}).status_code


class TestSignIn:
    def test_it_leads_to_where_the_person_wanted_to_go(self, stranger: Client, wanda: User) -> None:
        page = parse(stranger.get(stranger.get("/search/?q=tea").url))
        wanted = one(page, "input[name=next]").get("value")
        response = stranger.post("/sign-in/", {"username": "wanda", "password": PASSWORD, "next": wanted})
        assert response.url == "/search/?q=tea"
        assert "Signed in as wanda" in text_of(stranger.get("/search/"))

    def test_it_never_leads_to_another_site(self, stranger: Client, wanda: User) -> None:
        response = stranger.post(
            "/sign-in/", {"username": "wanda", "password": PASSWORD, "next": "https://evil.example/"}
        )
        assert response.url == "/"

    def test_a_wrong_password_says_so_without_saying_which_is_wrong(self, stranger: Client, wanda: User) -> None:
        known = stranger.post("/sign-in/", {"username": "wanda", "password": "wrong"})
        unknown = stranger.post("/sign-in/", {"username": "nobody", "password": "wrong"})
        assert known.status_code == unknown.status_code == 401
        assert one(parse(known), "[role=alert]").text_content() == one(parse(unknown), "[role=alert]").text_content()

    def test_too_many_failures_close_the_door_for_a_while(self, stranger: Client, wanda: User) -> None:
        for _ in range(accounts.MAX_FAILURES_OF_NAME):
            assert attempt(stranger) == 401
        response = stranger.post("/sign-in/", {"username": "Wanda", "password": PASSWORD})
        assert response.status_code == 429
        assert 0 < int(response.headers["Retry-After"]) <= accounts.ATTEMPT_WINDOW_S / accounts.MAX_FAILURES_OF_NAME
        assert "Wait 3 minutes" in one(parse(response), "[role=alert]").text_content()

    def test_guessing_at_one_account_from_everywhere_is_stopped_too(self, stranger: Client, wanda: User) -> None:
        for number in range(accounts.MAX_FAILURES_OF_ACCOUNT):
            assert attempt(Client(SERVER_NAME="zenglow.example", REMOTE_ADDR=f"203.0.113.{number}")) == 401
        assert attempt(stranger, PASSWORD) == 429

    def test_the_admin_has_no_door_of_its_own(self, stranger: Client, wanda: User) -> None:
        for _ in range(accounts.MAX_FAILURES_OF_NAME):
            attempt(stranger)
        response = stranger.post("/admin/login/?next=/admin/", {"username": "wanda", "password": PASSWORD})
        assert response.url == "/sign-in/?next=/admin/"
        assert stranger.get("/admin/", follow=True).redirect_chain[-1][0] == "/sign-in/?next=/admin/"

    def test_somebody_who_may_not_administer_is_told_so(self, sign_in: SignIn) -> None:
        assert sign_in("zoe").get("/admin/", follow=True).status_code == 403

    def test_the_door_stays_open_for_others(self, stranger: Client, wanda: User) -> None:
        for _ in range(accounts.MAX_FAILURES_OF_NAME):
            attempt(stranger)
        User.objects.create_user("xaver", password=PASSWORD)
        assert attempt(stranger, PASSWORD, name="xaver") == 302
        elsewhere = Client(SERVER_NAME="zenglow.example", REMOTE_ADDR="203.0.113.77")
        assert attempt(elsewhere, PASSWORD) == 302

    def test_a_success_forgets_the_failures(self, stranger: Client, wanda: User) -> None:
        for _ in range(accounts.MAX_FAILURES_OF_NAME - 1):
            attempt(stranger)
        assert attempt(stranger, PASSWORD) == 302
        stranger.logout()
        for _ in range(accounts.MAX_FAILURES_OF_NAME - 1):
            assert attempt(stranger) == 401

    def test_guessing_at_many_accounts_is_stopped_too(
        self, stranger: Client, wanda: User, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(accounts, "MAX_FAILURES_OF_ADDRESS", 3)
        for number in range(3):
            assert attempt(stranger, name=f"guess-{number}") == 401
        assert attempt(stranger, PASSWORD) == 429

    def test_it_needs_the_token_of_the_form(self, stranger: Client, wanda: User) -> None:
        careful = Client(enforce_csrf_checks=True, SERVER_NAME="zenglow.example", headers={"Accept": "text/html"})
        assert attempt(careful, PASSWORD) == 403
        token = one(parse(careful.get("/sign-in/")), "input[name=csrfmiddlewaretoken]").get("value")
        assert attempt(careful, PASSWORD, csrfmiddlewaretoken=token) == 302

    @pytest.mark.parametrize("name", ["", "a\x00b", "x" * 10_000, "<script>"])
    def test_any_name_is_only_wrong(self, stranger: Client, name: str) -> None:
        response = stranger.post("/sign-in/", {"username": name, "password": "wrong", "next": '"><script>'})
        assert response.status_code == 401
        assert_inert(response)


class TestSignOut:
    def test_it_ends_the_session(self, sign_in: SignIn) -> None:
        client = sign_in()
        assert client.get("/search/").status_code == 200
        assert client.post("/sign-out/").url == "/sign-in/"
        assert client.get("/search/").status_code == 302

    def test_a_link_from_elsewhere_does_not_sign_out(self, sign_in: SignIn) -> None:
        client = sign_in()
        assert client.get("/sign-out/").status_code == 405
        assert client.get("/search/").status_code == 200


class TestPasswordChange:
    def test_it_changes_and_the_person_stays_signed_in(self, sign_in: SignIn) -> None:
        client = sign_in("yara")
        new = {"old_password": PASSWORD, "new_password1": "lantern moss river", "new_password2": "lantern moss river"}
        response = client.post("/password-change/", new, follow=True)
        assert "Your password was changed" in text_of(response)
        assert client.get("/search/").status_code == 200
        assert User.objects.get().check_password("lantern moss river")

    def test_a_weak_one_is_refused_with_the_reason(self, sign_in: SignIn) -> None:
        client = sign_in("yara")
        response = client.post(
            "/password-change/", {"old_password": PASSWORD, "new_password1": "12345", "new_password2": "12345"}
        )
        assert "too short" in text_of(response)
        assert User.objects.get().check_password(PASSWORD)
        assert_inert(response)

    def test_a_stranger_is_asked_to_sign_in(self, stranger: Client) -> None:
        assert stranger.get("/password-change/").url.startswith("/sign-in/?next=")

    def test_somebody_at_the_machine_has_none_to_change(self, visitor: Client) -> None:
        assert visitor.get("/password-change/").url.startswith("/sign-in/?next=")
