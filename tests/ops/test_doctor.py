"""The system is broken each way, and doctor names it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db import connection
from django.utils import timezone

from models_registry import weights
from models_registry.models import GLOBAL_SCOPE
from ops import doctor, keys
from ops.alerts import raise_alert
from ops.contracts import diagnosis
from ops.contracts.diagnosis import Finding, Level, register_diagnosis
from ops.contracts.principal import SYSTEM, Scope
from ops.models import AlertSeverity
from tests.ops.performance.rows import row, write

pytestmark = pytest.mark.django_db

ROOT = Path(django_settings.BASE_DIR)


def found(name: str) -> list[Finding]:
    return list(diagnosis.diagnoses()[name]())


def trouble(name: str) -> Finding:
    (one,) = [finding for finding in found(name) if finding.level is Level.TROUBLE]
    assert one.next.startswith("manage.py ")
    return one


class TestBroken:
    def test_redis_that_is_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not [one for one in found("redis") if one.level is Level.TROUBLE]
        nobody = redis.Redis(host="127.0.0.1", port=1)
        monkeypatch.setattr(doctor, "get_redis_connection", lambda alias: nobody)
        assert "Redis does not answer" in trouble("redis").what

    def test_a_disk_that_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert {one.level for one in found("disk")} <= {Level.OK, Level.TROUBLE}
        gib = 1024**3
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100 * gib, 99 * gib, gib))  # type: ignore[attr-defined]
        assert trouble("disk").what == "1.0 GiB of 100.0 GiB are free."

    def test_slow_queries_with_their_stage_and_caches(self) -> None:
        now = timezone.now()
        assert "too few" in found("latency")[0].what
        write(
            row(
                occurred_at=now - timedelta(minutes=5),
                cache="full" if n < 10 else "none",
                timings_ms={"pipeline_ms": 4000.0, "embed_ms": 10.0, "retrieval_ms": 3900.0},
            )
            for n in range(40)
        )
        assert "retrieval 3" in trouble("latency").what
        assert "full 25%, none 75%" in trouble("latency").what

    def test_queries_that_fail(self) -> None:
        write(row(occurred_at=timezone.now() - timedelta(minutes=5), status=503) for _ in range(30))
        assert trouble("latency").what == "100.0% of the queries failed."

    @pytest.mark.usefixtures("live_models")
    def test_weights_that_are_all_on_one_side(self) -> None:
        assert not [one for one in found("weights") if one.level is Level.TROUBLE]
        weights.change(weights.propose(1.0, 0.001), GLOBAL_SCOPE, by=SYSTEM, reason="a slip")
        one = trouble("weights")
        assert "hardly counts" in one.what
        assert one.next == "manage.py weights rollback"

    def test_a_key_in_other_hands(self) -> None:
        key = keys.create_key("wiki", [Scope.QUERY], actor=SYSTEM)
        prefix, now = key.record.prefix, timezone.now()
        write(row(occurred_at=now - timedelta(days=2), key_prefix=prefix) for _ in range(100))
        assert not [one for one in found("keys") if one.level is Level.TROUBLE]
        write(row(occurred_at=now - timedelta(minutes=9), key_prefix=prefix) for _ in range(600))
        assert trouble("keys").next == f"manage.py apikey revoke {prefix}"

    def test_an_open_alert(self) -> None:
        raise_alert("ranker-broken-x", AlertSeverity.CRITICAL, "The ranker x@1 can't be used")
        assert trouble("alerts").what == "ranker-broken-x: The ranker x@1 can't be used"

    def test_an_index_that_is_not_valid(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE INDEX half_made ON ONLY query_performance (status)")  # its partitions have none
        assert "half_made" in trouble("postgresql").what

    def test_a_migration_that_is_missing(self) -> None:
        """Its check looks with a connection of its own, so the answer is what is committed: all there."""
        assert found("migrations") == []


class TestExamination:
    def test_a_diagnosis_that_fails_is_a_finding_and_the_others_go_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(diagnosis, "_diagnoses", {})

        def fail() -> Any:
            raise ConnectionError("secret")

        register_diagnosis("away", fail)
        register_diagnosis("well", lambda: [Finding(Level.OK, "Fine.")])
        names = [(name, one.level) for name, one in doctor.examine()]
        assert names == [("away", Level.TROUBLE), ("well", Level.OK)]
        out = StringIO()
        with pytest.raises(CommandError, match="1 of 2 findings are trouble") as failed:
            call_command("doctor", "--json", stdout=out, stderr=StringIO())
        assert failed.value.returncode == 1
        assert "secret" not in out.getvalue()
        assert json.loads(out.getvalue())[0]["about"] == "away"
        register_diagnosis("away", lambda: [Finding(Level.NOTE, "Hm.", "manage.py doctor")])
        call_command("doctor", stdout=(shown := StringIO()), stderr=StringIO())
        assert "Hm." in shown.getvalue()

    def test_it_looks_at_every_part(self) -> None:
        assert set(diagnosis.diagnoses()) >= {
            *("postgresql", "redis", "workers", "disk", "machine", "latency", "keys", "alerts"),
            *("weights", "models", "indexes", "caches"),
        }


PLACEHOLDERS = {"COLLECTION": "docs", "PREFIX": "abc", "NAME@1": "ltr@1", "NAME": "ltr", "VERSION": "1"}


def commands_in(text: str) -> list[list[str]]:
    lines = re.findall(r"manage\.py ([a-z][^`\n]*)", text)
    return [[PLACEHOLDERS.get(word, word) for word in shlex.split(line)] for line in lines]


RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_every_command_of_a_runbook_can_be_called(path: Path) -> None:
    named = commands_in(path.read_text(encoding="utf-8"))
    assert named
    for name, *arguments in named:
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        if "--help" not in arguments:  # which would end the process
            parser.parse_args(arguments)


def test_there_is_a_runbook_for_each_case() -> None:
    assert {path.stem for path in RUNBOOKS} == {
        *("README", "high-latency", "redis-down", "database-full", "bad-model", "bad-weights", "leaked-key"),
        "restore-from-backup",
    }
