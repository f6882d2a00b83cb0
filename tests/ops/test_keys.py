from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from ops import keys
from ops.contracts.principal import SYSTEM, PrincipalKind, Scope
from ops.contracts.problems import InvalidRequest, NotFound
from ops.models import ApiKey, AuditEvent

pytestmark = pytest.mark.django_db


def made(**changes: Any) -> keys.NewKey:
    return keys.create_key(**({"name": "test", "scopes": [Scope.QUERY], "actor": SYSTEM} | changes))


class TestVerify:
    def test_it_gives_a_principal_with_the_rights_of_the_key(self) -> None:
        key = made(scopes=[Scope.QUERY, "ops:read"], groups=["b", "a"], collections=["docs"])
        principal = keys.verify(key.text)
        assert principal is not None
        assert (principal.kind, principal.name) == (PrincipalKind.API_KEY, key.record.prefix)
        assert principal.scopes == {Scope.QUERY, Scope.OPS_READ}
        assert principal.groups == {"a", "b"}
        assert principal.may_touch("docs")
        assert not principal.may_touch("other")

    def test_it_refuses_any_other_secret_and_any_other_prefix(self) -> None:
        first, second = made().text, made().text
        _, prefix, _ = first.split("_")
        _, _, secret = second.split("_")
        assert keys.verify(first)
        assert keys.verify(f"zg_{prefix}_{secret}") is None
        assert keys.verify(f"zg_{'a' * keys.PREFIX_LENGTH}_{secret}") is None
        assert keys.verify(first.upper()) is None

    @given(st.text() | st.from_regex(r"zg_[a-z0-9]{0,12}_[A-Za-z0-9]{0,50}", fullmatch=True))
    def test_it_refuses_any_text_that_was_not_made_here(self, text: str) -> None:
        assert keys.verify(text) is None

    def test_it_refuses_expired_and_revoked_keys(self) -> None:
        expired = made(expires_at=timezone.now() + timedelta(days=1))
        ApiKey.objects.filter(pk=expired.record.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
        assert keys.verify(expired.text) is None
        revoked = made()
        assert keys.verify(revoked.text)
        keys.revoke_key(revoked.record.prefix, actor=SYSTEM)
        assert keys.verify(revoked.text) is None

    def test_it_looks_up_a_key_once_a_second(
        self, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
    ) -> None:
        now = 1000.0
        monkeypatch.setattr(keys.time, "monotonic", lambda: now)
        key = made()
        with django_assert_num_queries(1):
            assert keys.verify(key.text)
            assert keys.verify(key.text)
        # Revoked by another process, which this one does not hear of:
        ApiKey.objects.update(revoked_at=timezone.now())
        now += keys.VERIFICATION_TTL_S + 0.001
        assert keys.verify(key.text) is None
        with django_assert_num_queries(0):
            assert keys.verify(key.text) is None

    def test_it_keeps_a_bounded_number_of_verifications(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keys, "VERIFICATIONS_KEPT", 3)
        for number in range(10):
            keys.verify(f"zg_{'a' * keys.PREFIX_LENGTH}_{number:0{keys.SECRET_LENGTH}d}")
        assert len(keys._verifications) <= 3

    def test_it_notes_the_last_use_at_most_once_a_minute(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 5000.0
        monkeypatch.setattr(keys.time, "monotonic", lambda: now)
        key = made()
        assert keys.verify(key.text)
        keys.last_used_writer().flush()
        first = ApiKey.objects.get(pk=key.record.pk).last_used_at
        assert first is not None
        now += 30
        assert keys.verify(key.text)
        assert keys.last_used_writer().flush() == 0
        now += 31
        assert keys.verify(key.text)
        keys.last_used_writer().flush()
        second = ApiKey.objects.get(pk=key.record.pk).last_used_at
        assert second is not None
        assert second > first


class TestCreate:
    def test_it_stores_nothing_that_opens_anything(self) -> None:
        key = made()
        _, prefix, secret = key.text.split("_")
        row = json.dumps(ApiKey.objects.filter(pk=key.record.pk).values().get(), default=str)
        assert secret not in row
        assert prefix in row
        assert len(key.record.key_hash) == 64

    def test_its_hash_depends_on_the_secret_key_of_this_installation(self, settings: Any) -> None:
        key = made()
        settings.SECRET_KEY = "another installation's " + "x" * 50
        assert keys.verify(key.text) is None

    def test_it_leaves_a_trace_without_the_secret(self) -> None:
        key = made(name="for the crawler")
        event = AuditEvent.objects.get(action="api_key.create")
        assert (event.actor, event.target) == ("system", key.record.prefix)
        assert key.text.split("_")[2] not in json.dumps(event.details)

    @pytest.mark.parametrize(
        "changes",
        [
            {"scopes": []},
            {"scopes": ["root"]},
            {"name": " "},
            {"expires_at": timezone.now() - timedelta(days=1)},
        ],
    )
    def test_it_refuses_what_makes_no_sense(self, changes: dict[str, Any]) -> None:
        with pytest.raises(InvalidRequest):
            made(**changes)
        assert not ApiKey.objects.exists()


class TestRevoke:
    def test_it_revokes_once_and_says_so_once(self) -> None:
        prefix = made().record.prefix
        first = keys.revoke_key(prefix, actor=SYSTEM).revoked_at
        assert keys.revoke_key(prefix, actor=SYSTEM).revoked_at == first
        assert AuditEvent.objects.filter(action="api_key.revoke").count() == 1

    def test_it_knows_no_other_key(self) -> None:
        with pytest.raises(NotFound):
            keys.revoke_key("nobody", actor=SYSTEM)


class TestCommand:
    def test_it_makes_a_key_that_works_and_lists_and_revokes_it(self) -> None:
        out, err = StringIO(), StringIO()
        call_command(
            "apikey",
            "create",
            "for tests",
            "--scope=query",
            "--scope=ingest",
            "--collection=docs",
            "--expires-in-days=3",
            stdout=out,
            stderr=err,
        )
        text = out.getvalue().strip()
        principal = keys.verify(text)
        assert principal is not None
        assert principal.collections == {"docs"}
        assert "only time" in err.getvalue()

        out = StringIO()
        call_command("apikey", "list", "--json", stdout=out)
        assert [(row["prefix"], row["state"]) for row in json.loads(out.getvalue())] == [(principal.name, "active")]
        assert text.split("_")[2] not in out.getvalue()

        call_command("apikey", "revoke", principal.name, stdout=StringIO())
        assert keys.verify(text) is None
        out = StringIO()
        call_command("apikey", "list", stdout=out)
        assert "revoked" in out.getvalue()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("create", "x", "--scope=root"),
            ("create", "x", "--scope=query", "--expires-in-days=0"),
            ("create", " ", "--scope=query"),
            ("revoke", "nobody"),
        ],
    )
    def test_it_ends_with_2_and_one_line(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(CommandError) as caught:
            call_command("apikey", *arguments, stdout=StringIO())
        assert caught.value.returncode == 2
        assert "\n" not in str(caught.value)
