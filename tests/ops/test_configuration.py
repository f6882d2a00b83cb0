from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import CommandError, call_command
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from ops import configuration
from ops.contracts.env import ConfigurationError, Kind, Variable, declared, load, parse, unknown_names

BASE_DIR = Path(django_settings.BASE_DIR)
PACKAGES = ("ops", "models_registry", "rag", "voice", "zenglow_site")

NUMBER = Variable("RAG_NUMBER", Kind.INTEGER, "A number.", default=3, minimum=1, maximum=9)
SWITCH = Variable("OPS_SWITCH", Kind.BOOLEAN, "A switch.", default=False, stage_defaults={"prod": True})
SECRET = Variable("OPS_SECRET", Kind.STRING, "A secret.", secret=True)
RENAMED = Variable("RAG_FUSION_X", Kind.FLOAT, "A weight.", default=0.5, deprecated_names=("FUSION_X",))
STORE = Variable("STORE_URL", Kind.URL, "A store.", secret=True)
HOST = Variable("STORE_HOST", Kind.STRING, "Its host.", required_when="STORE_URL")
RISKY = Variable(
    "OPS_RISKY", Kind.BOOLEAN, "Risky.", default=False, risk=lambda value, stage: f"risky in {stage}" if value else None
)
ALL = (NUMBER, SWITCH, SECRET, RENAMED, STORE, HOST, RISKY)


def loaded(**names: str) -> Any:
    return load(names, variables=ALL)


class TestLoading:
    def test_it_takes_the_environment_over_the_file_over_the_default_of_the_stage(self, tmp_path: Path) -> None:
        dotenv = tmp_path / ".env"
        dotenv.write_text("RAG_NUMBER=4\nOPS_SWITCH=off\n")
        found = load({"RAG_NUMBER": "5", "ZENGLOW_ENV": "prod"}, dotenv=dotenv, variables=ALL)
        assert (found["RAG_NUMBER"], found.origin("RAG_NUMBER")) == (5, "environment")
        assert (found["OPS_SWITCH"], found.origin("OPS_SWITCH")) == (False, ".env")
        bare = load({"ZENGLOW_ENV": "prod"}, variables=ALL)
        assert (bare["OPS_SWITCH"], bare.origin("OPS_SWITCH")) == (True, "default (prod)")

    def test_it_names_every_fault_at_once(self) -> None:
        found = loaded(RAG_NUMBER="ten", OPS_SWITCH="maybe", STORE_URL="postgres://x")
        with pytest.raises(ConfigurationError) as caught:
            found.raise_for_errors()
        message = str(caught.value)
        assert [name for name in ("RAG_NUMBER", "OPS_SWITCH", "STORE_HOST") if name in message] == [
            "RAG_NUMBER",
            "OPS_SWITCH",
            "STORE_HOST",
        ]

    @pytest.mark.parametrize(
        ("text", "fault"), [("0", "at least 1"), ("10", "at most 9"), ("1.5", "whole number"), ("1e3", "whole number")]
    )
    def test_it_says_what_is_accepted(self, text: str, fault: str) -> None:
        assert fault in str(loaded(RAG_NUMBER=text).errors[0])

    def test_it_never_repeats_a_secret(self) -> None:
        assert "hunter2" not in str(loaded(STORE_URL="hunter2", STORE_HOST="h").errors)

    def test_it_reads_a_secret_from_a_file(self, tmp_path: Path) -> None:
        file = tmp_path / "secret"
        file.write_text("hunter2\n")
        assert loaded(OPS_SECRET_FILE=str(file))["OPS_SECRET"] == "hunter2"
        assert "both set" in loaded(OPS_SECRET_FILE=str(file), OPS_SECRET="x").errors[0].message
        assert "can't be read" in loaded(OPS_SECRET_FILE=str(tmp_path / "none")).errors[0].message

    def test_it_reads_an_old_name_and_says_so(self) -> None:
        found = loaded(FUSION_X="0.7")
        assert found["RAG_FUSION_X"] == 0.7
        assert found.origin("RAG_FUSION_X") == "environment (FUSION_X)"
        assert found.deprecations == ("FUSION_X is deprecated: rename it to RAG_FUSION_X.",)
        assert loaded(FUSION_X="0.7", RAG_FUSION_X="0.2")["RAG_FUSION_X"] == 0.2

    def test_it_says_of_other_retired_names_that_they_do_nothing(self) -> None:
        assert loaded(FUSION_MODE="rrf").deprecations == (
            "FUSION_MODE is deprecated and no longer means anything: remove it.",
        )

    def test_it_takes_an_empty_value_as_not_set(self) -> None:
        assert loaded(RAG_NUMBER=" ")["RAG_NUMBER"] == 3

    def test_a_path_in_the_home_folder_of_nobody_is_refused(self) -> None:
        with pytest.raises(ValueError, match="nobody's home folder is meant by '~nobody-of-that-name/data'"):
            parse(Variable("X", Kind.PATH, ""), "~nobody-of-that-name/data")

    @given(st.sampled_from(list(Kind)), st.text())
    @example(Kind.PATH, "~0")
    def test_it_parses_or_refuses_any_text(self, kind: Kind, text: str) -> None:
        with contextlib.suppress(ValueError):
            parse(Variable("X", kind, ""), text)


class TestUnknownNames:
    def test_it_finds_typing_errors_and_says_what_was_meant(self) -> None:
        names = ["RAG_NUMBR", "OPS_SWICH", "ENABLE_API_KEY", "STORE_URI", "PATH", "HOME", "RAG_XYZZY", "RAG_NUMBER"]
        variables = (*ALL, Variable("ENABLE_API_KEYS", Kind.BOOLEAN, ""))
        assert unknown_names(names, variables) == {
            "ENABLE_API_KEY": "ENABLE_API_KEYS",
            "OPS_SWICH": "OPS_SWITCH",
            "RAG_NUMBR": "RAG_NUMBER",
            "RAG_XYZZY": None,
        }

    def test_it_accepts_files_of_secrets_and_old_names(self) -> None:
        assert unknown_names(["OPS_SECRET_FILE", "FUSION_X"], ALL) == {}
        assert unknown_names(["RAG_NUMBER_FILE"], ALL) == {"RAG_NUMBER_FILE": "RAG_NUMBER"}


@pytest.fixture
def declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "declared", lambda: ALL)
    monkeypatch.setattr(configuration, "broken_rules", lambda loaded: ())


@pytest.mark.usefixtures("declarations")
class TestShowing:
    def test_it_hides_secrets_by_declaration_and_passwords_wherever_they_are(self) -> None:
        plain = Variable("OPS_PLAIN", Kind.STRING, "")
        found = load({"OPS_SECRET": "hunter2", "OPS_PLAIN": "amqp://me:hunter2@mq"}, variables=(SECRET, plain))
        assert configuration.shown_value(SECRET, found) == configuration.HIDDEN
        assert configuration.shown_value(plain, found) == "amqp://me:[redacted]@mq"
        assert configuration.shown_value(SECRET, load({}, variables=(SECRET,))) is None

    def test_it_hides_what_is_named_like_a_secret_though_not_declared_as_one(self) -> None:
        for name in ("OPS_API_TOKEN", "ZENGLOW_S3_ACCESS_KEY"):
            forgotten = Variable(name, Kind.STRING, "")
            found = load({name: "hunter2"}, variables=(forgotten,))
            assert configuration.shown_value(forgotten, found) == configuration.HIDDEN
        tokens = Variable("OPS_TOKEN", Kind.LIST, "")
        found = load({"OPS_TOKEN": "hunter2,hunter3"}, variables=(tokens,))
        assert configuration.shown_value(tokens, found) == [configuration.HIDDEN] * 2

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("https://hunter2@host/x", "https://[redacted]@host/x"),
            ("https://me:hunter2@host/x", "https://me:[redacted]@host/x"),
            ("https://host/?sig=hunter2&x=1", "https://host/?sig=[redacted]&x=1"),
            ("https://host/?x=1&key=hunter2", "https://host/?x=1&key=[redacted]"),
            ("https://host/?x-api-key=hunter2#access_token=hunter2", None),
            ("postgres://me:hunter2@db/x?sslpassword=hunter2", None),
            ("redis://:hunter2@h:6379/0", None),
            ("http://[hunter", "http://[hunter"),
            ("https://jaeger.example/search?tags=request_id:{request_id}", None),
            ("deployment.environment.name=prod", "deployment.environment.name=prod"),
        ],
    )
    def test_it_shows_no_secret_in_a_url(self, text: str, shown: str | None) -> None:
        plain = Variable("OPS_PLAIN", Kind.STRING, "")
        found = configuration.shown_value(plain, load({"OPS_PLAIN": text}, variables=(plain,)))
        assert "hunter2" not in found
        assert shown is None or found == shown
        assert "hunter2" in text or found == text

    def test_it_lists_every_kind_of_doubt(self) -> None:
        found = loaded(RAG_NUMBER="99", FUSION_X="1", OPS_SWICH="1", OPS_RISKY="yes")
        doubts = configuration.doubts(found)
        assert [(doubt.level, doubt.code, doubt.name) for doubt in doubts] == [
            ("error", "out_of_bounds", "RAG_NUMBER"),
            ("warning", "deprecated", "FUSION_X"),
            ("warning", "unknown", "OPS_SWICH"),
            ("warning", "risky", "OPS_RISKY"),
        ]
        assert "Did you mean OPS_SWITCH?" in doubts[2].message
        assert doubts[3].message == "risky in local"


def real_doubts(**names: str) -> list[tuple[str, str, str]]:
    found = configuration.doubts(load(names, variables=declared()))
    return [(doubt.level, doubt.code, doubt.name) for doubt in found]


class TestDoubtsAboutTheRealVariables:
    @pytest.mark.parametrize(
        ("names", "told"),
        [
            (
                {"DATABASE_URL": "postgres://x/y", "REDIS_PORT": "1", "ZENGLOW_SECRET_KEY": "x" * 60},
                ("error", "missing", "REDIS_HOST"),
            ),
            ({"RAG_RETRIEVAL_MODE": "milvus"}, ("error", "missing", "MILVUS_URI")),
            (
                {"ZENGLOW_S3_BUCKET": "b", "ZENGLOW_S3_ACCESS_KEY": "a"},
                ("error", "missing", "ZENGLOW_S3_SECRET_KEY"),
            ),
            ({"RAG_TOP_K_MAX": "1001"}, ("error", "out_of_bounds", "RAG_TOP_K_MAX")),
            ({"RAG_TOP_K_MAX": "many"}, ("error", "invalid", "RAG_TOP_K_MAX")),
            ({"REDIS_HOST": "cache"}, ("warning", "contradictory", "REDIS_HOST")),
            ({"MILVUS_URI": "http://m:1"}, ("warning", "contradictory", "MILVUS_URI")),
            ({"ZENGLOW_S3_REGION": "eu"}, ("warning", "contradictory", "ZENGLOW_S3_REGION")),
            (
                {"ZENGLOW_TLS_CERTIFICATE": "/c", "ZENGLOW_TLS_KEY": "/k", "ZENGLOW_SECURE_COOKIES": "off"},
                ("warning", "contradictory", "ZENGLOW_SECURE_COOKIES"),
            ),
            (
                {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
                ("warning", "contradictory", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ),
            (
                {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"},
                ("warning", "contradictory", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ),
            (
                {"RAG_TOP_K_DEFAULT": "200", "RAG_TOP_K_MAX": "100"},
                ("warning", "contradictory", "RAG_TOP_K_DEFAULT"),
            ),
            ({"RAG_TOP_K": "20"}, ("warning", "deprecated", "RAG_TOP_K")),
            ({"SUPABASE_URI": "http://x"}, ("warning", "unknown", "SUPABASE_URI")),
            (
                {"ZENGLOW_ENV": "prod", "ZENGLOW_SECURE_COOKIES": "off"},
                ("warning", "risky", "ZENGLOW_SECURE_COOKIES"),
            ),
            ({"ZENGLOW_ENV": "prod", "OPS_LOG_LEVEL": "DEBUG"}, ("warning", "risky", "OPS_LOG_LEVEL")),
            ({"ZENGLOW_ENV": "staging", "RAG_QUERY_LOG": "clear"}, ("warning", "risky", "RAG_QUERY_LOG")),
            ({"ZENGLOW_ALLOWED_HOSTS": "a,*"}, ("warning", "risky", "ZENGLOW_ALLOWED_HOSTS")),
            (
                {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
                ("warning", "risky", "OTEL_EXPORTER_OTLP_ENDPOINT"),
            ),
        ],
    )
    def test_it_tells_exactly_this(self, names: dict[str, str], told: tuple[str, str, str]) -> None:
        assert real_doubts(**names) == [told]

    def test_it_tells_of_keys_that_are_both_needed_and_not(self) -> None:
        name = "ZENGLOW_ALLOW_ANONYMOUS"
        found = real_doubts(ENABLE_API_KEYS="on", ZENGLOW_ALLOW_ANONYMOUS="on")
        assert found == [("warning", "contradictory", name), ("warning", "risky", name)]

    def test_it_has_none_about_a_sound_production(self) -> None:
        names = {"DATABASE_URL": "postgres://x/y", "REDIS_HOST": "r", "REDIS_PORT": "6379"}
        secret = {"ZENGLOW_SECRET_KEY": "x" * 60, "ZENGLOW_ALLOWED_HOSTS": "zenglow.example", "ZENGLOW_ENV": "prod"}
        assert real_doubts(**names, **secret) == []

    def test_it_repeats_no_password_that_was_put_into_the_wrong_variable(self) -> None:
        found = load({"REDIS_PORT": "redis://:hunter2@h:6379"}, variables=declared())
        messages = [doubt.message for doubt in configuration.doubts(found)]
        assert any("REDIS_PORT" in message for message in messages)
        assert "hunter2" not in str(messages)


class TestCommand:
    def test_it_shows_every_variable_without_any_secret(self) -> None:
        out = StringIO()
        call_command("config", "show", "--json", stdout=out)
        rows = {row["name"]: row for row in json.loads(out.getvalue())}
        assert set(rows) == {variable.name for variable in declared()}
        for variable in declared():
            if variable.secret:
                assert rows[variable.name]["value"] in {None, configuration.HIDDEN}
        out = StringIO()
        call_command("config", "show", stdout=out)
        assert "RAG_TOP_K_MAX" in out.getvalue()

    def test_it_checks(self, settings: Settings) -> None:
        settings.ENVIRONMENT = load({}, variables=declared())
        out = StringIO()
        call_command("config", "check", stdout=out)
        assert "in order" in out.getvalue()
        settings.ENVIRONMENT = load({"RAG_TOPK_MAX": "5"}, variables=declared())
        out = StringIO()
        call_command("config", "check", stdout=out)
        assert "Did you mean RAG_TOP_K_MAX?" in out.getvalue()
        with pytest.raises(CommandError) as caught:
            call_command("config", "check", "--strict", stdout=StringIO())
        assert caught.value.returncode == 1

    def test_it_writes_the_reference_and_notices_when_it_is_stale(self, settings: Settings, tmp_path: Path) -> None:
        settings.BASE_DIR = tmp_path
        with pytest.raises(CommandError) as caught:
            call_command("config", "docs", "--check", stdout=StringIO())
        assert caught.value.returncode == 1
        call_command("config", "docs", stdout=StringIO())
        call_command("config", "docs", "--check", stdout=StringIO())
        (tmp_path / ".env.example").write_text("old")
        with pytest.raises(CommandError, match=r"\.env\.example"):
            call_command("config", "docs", "--check", stdout=StringIO())


class TestReference:
    def test_the_committed_files_are_true(self) -> None:
        call_command("config", "docs", "--check", stdout=StringIO())

    def test_it_names_every_variable_once(self) -> None:
        page, example = configuration.reference_page(), configuration.example_file()
        for variable in declared():
            assert page.count(f"### `{variable.name}`\n") == 1
            assert example.count(f"\n# {variable.name}=") == 1

    def test_the_example_is_a_file_that_can_be_read(self, tmp_path: Path) -> None:
        """With every # taken away from the assignments that have a value, it changes nothing."""
        lines = configuration.example_file().splitlines()
        names = {variable.name: variable for variable in declared()}
        assignments = [line[2:] for line in lines if line[2:].split("=")[0] in names and not line.endswith("=")]
        file = tmp_path / ".env"
        file.write_text("\n".join(assignments))
        found = load({}, dotenv=file, variables=declared())
        assert found.errors == ()
        for name, variable in names.items():
            if variable.kind is not Kind.PATH:
                assert found[name] == variable.default

    def test_it_says_nothing_of_this_installation(self) -> None:
        assert str(BASE_DIR) not in configuration.reference_page() + configuration.example_file()


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        yield from sorted((BASE_DIR / package).rglob("*.py"))


def environment_reads(tree: ast.AST) -> list[int]:
    """Lines that touch the process environment, other than to name the settings module."""
    allowed = {
        id(node.func.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "setdefault"
        and node.args
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "DJANGO_SETTINGS_MODULE"
    }
    found = []
    for node in ast.walk(tree):
        is_read = isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb", "Env"}
        is_import = isinstance(node, ast.ImportFrom) and node.module in {"os", "environ"}
        imported = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
        if (is_read and id(node) not in allowed) or (is_import and imported & {"environ", "environb", "getenv", "Env"}):
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def test_nothing_but_the_registry_reads_the_environment() -> None:
    readers = {
        f"{path.relative_to(BASE_DIR)}:{line}"
        for path in modules()
        for line in environment_reads(ast.parse(path.read_text("utf-8")))
    }
    exempt = ("ops/contracts/env.py:",)
    assert sorted(reader for reader in readers if not reader.startswith(exempt)) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import os\nos.environ['X']", 1),
        ("import os\nos.getenv('X')", 1),
        ("from os import environ", 1),
        ("import os as o\no.environ.get('X')", 1),
        ("import environ\nenviron.Env()", 1),
        ("import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'x')", 0),
        ("import os\nos.environ.setdefault('OTHER', 'x')", 1),
        ("import os\nos.getpid()", 0),
    ],
)
def test_its_scan_sees_every_way_to_read_it(source: str, count: int) -> None:
    assert len(environment_reads(ast.parse(source))) == count
