"""The system is broken each way, and doctor names it."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.db import connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone
from pytest_django.fixtures import Settings

import models_registry.diagnoses
import rag.diagnoses
from models_registry import weights
from models_registry.models import GLOBAL_SCOPE, Deployment, Slot
from ops import audit, doctor, keys
from ops.alerts import raise_alert
from ops.backup.service import CREATE_BACKUP
from ops.contracts import diagnosis
from ops.contracts.diagnosis import Finding, Level, register_diagnosis
from ops.contracts.principal import SYSTEM, Scope
from ops.gpu import Gpu
from ops.models import AlertSeverity, AuditEvent
from rag.models import AnnConfig, AnnState, Collection, EmbeddingSpace
from tests.embedded.support import temporary_place
from tests.ops.performance.rows import row, write
from zenglow_site.embedded.redis import EmbeddedRedis

pytestmark = pytest.mark.django_db

ROOT = Path(django_settings.BASE_DIR)


def found(name: str) -> list[Finding]:
    return list(diagnosis.diagnoses()[name].ask())


def trouble(name: str) -> Finding:
    (one,) = [finding for finding in found(name) if finding.level is Level.TROUBLE]
    assert one.next.startswith("manage.py ")
    return one


class TestBroken:
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

    @pytest.mark.usefixtures("live_models")
    def test_weights_that_changed_lately_and_none_at_all(self) -> None:
        live = Deployment.objects.filter(slot=Slot.WEIGHTS)
        live.update(started_at=timezone.now() - timedelta(hours=25))
        assert [one.level for one in found("weights")] == [Level.OK]
        live.update(started_at=timezone.now() - timedelta(hours=23), by="user:ada")
        (one,) = found("weights")
        assert (one.level, one.next) == (Level.NOTE, "manage.py registry history --slot weights")
        assert one.what.endswith(", changed by user:ada in the last day.")
        live.delete()
        assert trouble("weights") == Finding(Level.TROUBLE, "No fusion weights are live.", "manage.py seed")

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

    def test_a_transaction_that_stays_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(doctor, "LONG_QUERY", timedelta(0))
        with connection.copy().temporary_connection() as other:
            other.execute("BEGIN")
            (one,) = [one for one in found("postgresql") if "transaction" in one.what]
            assert (one.level, one.next) == (Level.TROUBLE, "manage.py dbshell")
            other.execute("ROLLBACK")

    def test_connections_that_are_nearly_all_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        said = found("postgresql")
        assert "are taken" not in " ".join(one.what for one in said)
        used, _, most = said[0].what.split()[:3]
        monkeypatch.setattr(doctor, "BUSY", (int(used) - 5) / int(most))
        assert trouble("postgresql").what.endswith(f" of {most} connections are taken.")

    def test_a_redis_that_is_nearly_full(self, settings: Settings) -> None:
        with temporary_place() as place:
            own = EmbeddedRedis(place / "redis", elsewhere=place / "elsewhere", short_base=place)
            own.ensure()
            settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": own.url(0)}}
            with redis.Redis.from_url(own.url(0)) as client:
                used = int(client.info("memory")["used_memory"])
                client.config_set("maxmemory", 10 * used)
                assert [one.level for one in found("redis")] == [Level.OK]
                client.config_set("maxmemory", int(1.02 * used))
                _, full = found("redis")
            own.stop()
        assert (full.level, full.next) == (Level.NOTE, "manage.py config show")
        assert full.what.endswith("of Redis's memory is in use.")

    def test_an_index_that_is_not_valid(self) -> None:
        with connection.cursor() as cursor:
            cursor.execute("CREATE INDEX half_made ON ONLY query_performance (status)")  # its partitions have none
        assert "half_made" in trouble("postgresql").what

    def test_a_vector_index_that_is_gone(self) -> None:
        config = make_live_config(index_name="ann_that_was_dropped")
        one = trouble("indexes")
        assert one.what == "The live vector index of docs, ann_that_was_dropped, does not exist."
        assert one.next == f"manage.py ann build {config.collection.slug} --activate"

    def test_a_vector_index_that_no_query_uses(self) -> None:
        name = "never_used"
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE INDEX {name} ON ops_auditevent (target)")
        make_live_config(index_name=name)
        assert found("indexes") == []
        write(row(occurred_at=timezone.now() - timedelta(minutes=5)) for _ in range(30))
        (one,) = found("indexes")
        assert one.what == f"30 queries of docs in the last hour, and none used its vector index {name}."
        assert one.next == "manage.py ann list"

    def test_caches_that_stopped_answering(self) -> None:
        now = timezone.now()
        write(row(occurred_at=now - timedelta(hours=5), cache="full" if n % 2 else "none") for n in range(60))
        write(row(occurred_at=now - timedelta(minutes=5)) for _ in range(30))
        (_, one) = found("latency")
        assert one.what == "Caches answered 0% of the last hour's queries, 50% of those of the day before."
        assert one.next == "manage.py perf report --since 24h --by cache"

    def test_more_results_than_anybody_reads(self) -> None:
        write(row(occurred_at=timezone.now() - timedelta(minutes=5), result_count=100) for _ in range(30))
        (_, one) = found("latency")
        assert one.what == "A query returns 100 results on average, RAG_TOP_K_DEFAULT is 10."

    def test_features_that_are_not_kept(self, settings: Any) -> None:
        assert [one.level for one in found("caches")] == [Level.OK]
        settings.RAG_FEATURE_CACHE_TTL_S = 0
        assert "RAG_FEATURE_CACHE_TTL_S is 0" in found("caches")[1].what

    def test_a_machine_that_is_too_small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 4)
        monkeypatch.setattr(os, "getloadavg", lambda: (30.0, 20.0, 10.0))
        gpu = Gpu(0, "H100", 99.0, 79 * 1024**3, 80 * 1024**3, None, None)
        monkeypatch.setattr(doctor, "gpus", lambda: [gpu])
        processors, graphics = found("machine")
        assert (processors.level, graphics.level) == (Level.NOTE, Level.NOTE)
        assert processors.what.startswith("Load 20.0 on 4 processors, ")
        assert graphics.what == "GPU 0 (H100): 99 % busy, 99% of its memory in use."

    def test_a_backup_that_is_old(self, tmp_path: Path, settings: Any) -> None:
        """The installation of a test is young: it has time for its first one."""
        assert [(one.level, one.what) for one in found("backups")] == [
            (Level.NOTE, "No backup was ever made, in 0 days.")
        ]
        MigrationRecorder.Migration.objects.update(applied=timezone.now() - timedelta(days=30, hours=1))
        assert trouble("backups").what == "No backup was ever made, in 30 days."
        audit.record(SYSTEM, CREATE_BACKUP, "monday.backup", {})
        assert [one.level for one in found("backups")] == [Level.OK]
        AuditEvent.objects.update(occurred_at=timezone.now() - timedelta(days=8, hours=1))
        one = trouble("backups")
        assert one.what == "The last backup, monday.backup, is 8 days old; at most 7 are meant to pass."
        assert one.next == "manage.py backup create zenglow.backup"
        settings.OPS_BACKUP_MAX_AGE_DAYS = 0
        assert found("backups") == []


def make_live_config(*, index_name: str) -> AnnConfig:
    space = EmbeddingSpace.objects.first()
    assert space is not None
    collection = Collection.objects.create(slug="docs")
    return AnnConfig.objects.create(collection=collection, space=space, state=AnnState.LIVE, index_name=index_name)


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
            *(
                "postgresql",
                "migrations",
                "redis",
                "workers",
                "disk",
                "backups",
                "machine",
                "latency",
                "keys",
                "alerts",
            ),
            *("weights", "models", "indexes", "caches"),
        }


PLACEHOLDERS = {"COLLECTION": "docs", "PREFIX": "abc", "NAME@1": "ltr@1", "NAME": "ltr", "VERSION": "1"}


def commands_in(text: str) -> list[list[str]]:
    lines = re.findall(r"manage\.py ([a-z][^`\n]*)", text)
    return [[PLACEHOLDERS.get(word, word) for word in shlex.split(line)] for line in lines]


def printed_commands() -> list[list[str]]:
    """What doctor's findings name as the next command, read from where they are made."""
    found: list[list[str]] = []
    for module in (doctor, models_registry.diagnoses, rag.diagnoses):
        nodes = list(ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))))
        composed = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if node not in composed and isinstance(node, ast.JoinedStr | ast.Constant):
                text = "".join(map(filled_in, node.values if isinstance(node, ast.JoinedStr) else [node]))
                if text.startswith("manage.py "):
                    found.append(shlex.split(text)[1:])
    return found


FILLED_IN = {"where": " --collection docs", "live.slot": "ltr"}


def filled_in(part: ast.expr) -> str:
    if isinstance(part, ast.FormattedValue):
        return FILLED_IN.get(ast.unparse(part.value), "x")
    return str(cast(ast.Constant, part).value)


@pytest.mark.parametrize("command", printed_commands(), ids=" ".join)
def test_every_command_that_doctor_prints_can_be_called(command: list[str]) -> None:
    name, *arguments = command
    load_command_class(get_commands()[name], name).create_parser("manage.py", name).parse_args(arguments)


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
