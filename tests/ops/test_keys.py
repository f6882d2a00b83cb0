from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from ops import keys
from ops.contracts.principal import SYSTEM, PrincipalKind, Scope
from ops.contracts.problems import Conflict, InvalidRequest, NotFound
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


class TestRotate:
    def test_the_new_key_has_the_rights_of_the_old_and_both_work_for_a_while(self) -> None:
        ends = timezone.now() + timedelta(days=30)
        old = made(name="crawler", scopes=["ingest"], groups=["a"], collections=["docs"], expires_at=ends)
        new = keys.rotate_key(old.record.prefix, actor=SYSTEM, overlap=timedelta(hours=2))
        first, second = keys.verify(old.text), keys.verify(new.text)
        assert first is not None
        assert second is not None
        assert (first.scopes, first.groups, first.collections) == (second.scopes, second.groups, second.collections)
        assert (new.record.name, new.record.expires_at) == ("crawler", ends)
        old.record.refresh_from_db()
        assert old.record.expires_at is not None
        assert old.record.expires_at < timezone.now() + timedelta(hours=3)
        ApiKey.objects.filter(pk=old.record.pk).update(expires_at=timezone.now())
        keys.forget_verifications()
        assert keys.verify(old.text) is None
        assert keys.verify(new.text)

    def test_the_old_key_never_lasts_longer_than_it_would_have(self) -> None:
        soon = timezone.now() + timedelta(minutes=5)
        old = made(expires_at=soon)
        keys.rotate_key(old.record.prefix, actor=SYSTEM)
        old.record.refresh_from_db()
        assert old.record.expires_at == soon

    def test_without_an_overlap_the_old_key_ends_at_once(self) -> None:
        old = made()
        assert keys.verify(old.text)
        keys.rotate_key(old.record.prefix, actor=SYSTEM, overlap=timedelta(0))
        assert keys.verify(old.text) is None

    def test_it_leaves_one_trace_that_names_both(self) -> None:
        old = made()
        new = keys.rotate_key(old.record.prefix, actor=SYSTEM)
        event = AuditEvent.objects.get(action="api_key.rotate")
        assert (event.target, event.details["replaces"]) == (new.record.prefix, old.record.prefix)
        assert new.text.split("_")[2] not in json.dumps(event.details)

    def test_it_refuses_keys_that_have_ended_and_overlaps_without_sense(self) -> None:
        old = made()
        with pytest.raises(InvalidRequest):
            keys.rotate_key(old.record.prefix, actor=SYSTEM, overlap=timedelta(days=91))
        with pytest.raises(InvalidRequest):
            keys.rotate_key(old.record.prefix, actor=SYSTEM, overlap=timedelta(hours=-1))
        keys.revoke_key(old.record.prefix, actor=SYSTEM)
        with pytest.raises(Conflict):
            keys.rotate_key(old.record.prefix, actor=SYSTEM)
        with pytest.raises(NotFound):
            keys.rotate_key("nobody", actor=SYSTEM)


WATCH = """
import sys, time
import django
django.setup()
from ops import keys
key = sys.stdin.readline().strip()
last = None
while True:
    asked = time.monotonic()
    if keys.verify(key) is None:
        break
    if last is None:
        print("open", flush=True)
    last = asked
print(last, flush=True)
"""


@pytest.mark.django_db(transaction=True)
def test_another_process_forgets_a_revoked_key_within_a_second() -> None:
    """It asks all the time, and says when it was last let in. Both processes read the machine's one monotonic clock.

    However slow the machine, an answer is reused for a second at most, counted from before it was looked up.
    """
    key = made()
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCH],
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ
        | {
            "DJANGO_SETTINGS_MODULE": "tests.worker_settings",
            "ZENGLOW_TEST_DATABASE": connection.settings_dict["NAME"],
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with watcher:
        assert watcher.stdin is not None
        assert watcher.stdout is not None
        try:
            watcher.stdin.write(key.text + "\n")
            watcher.stdin.flush()
            assert watcher.stdout.readline() == "open\n"
            keys.revoke_key(key.record.prefix, actor=SYSTEM)
            revoked = time.monotonic()
            last = float(watcher.stdout.readline())
        finally:
            watcher.kill()
    assert last <= revoked + keys.VERIFICATION_TTL_S


class TestCommand:
    def test_it_rotates_a_key(self) -> None:
        old, out, err = made(), StringIO(), StringIO()
        call_command("apikey", "rotate", old.record.prefix, "--overlap-hours=1.5", stdout=out, stderr=err)
        assert keys.verify(out.getvalue().strip())
        assert "ends in 1.5 hours" in err.getvalue()
        out = StringIO()
        call_command("apikey", "list", stdout=out)
        assert ", ends " in next(line for line in out.getvalue().splitlines() if old.record.prefix in line)

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
            ("rotate", "nobody"),
            ("rotate", "nobody", "--overlap-hours=-1"),
            ("rotate", "nobody", "--overlap-hours=nan"),
        ],
    )
    def test_it_ends_with_2_and_one_line(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(CommandError) as caught:
            call_command("apikey", *arguments, stdout=StringIO())
        assert caught.value.returncode == 2
        assert "\n" not in str(caught.value)
