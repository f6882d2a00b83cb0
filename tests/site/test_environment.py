"""Which profile runs, who must show a key, and what is said when the environment can't be used."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from ops.contracts.env import ConfigurationError, Environment, load
from tests.patience import PATIENCE_S
from zenglow_site.database import database_parameters
from zenglow_site.environment import BASE_DIR, checked, is_embedded, is_reachable, keys_enabled
from zenglow_site.secret_key import secret_key

SERVICE = {
    "DATABASE_URL": "postgres://zenglow:secret-of-postgres@db.example:5432/zenglow",
    "REDIS_HOST": "redis.example",
    "REDIS_PORT": "6379",
    "ZENGLOW_SECRET_KEY": secrets.token_urlsafe(64),
}


def environment(**variables: str) -> Environment:
    return checked(load(variables))


def manage(variables: Mapping[str, str], *arguments: str, flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that finds nothing in its environment but ``variables``."""
    finished = subprocess.run(
        [sys.executable, *flags, "manage.py", *arguments],
        cwd=BASE_DIR,
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    return finished.returncode, finished.stdout, finished.stderr


class TestCheckOfAnUnusableEnvironment:
    def test_it_tells_errors_and_warnings_together(self, tmp_path: Path) -> None:
        variables = {"RAG_TOP_K_MAX": "3", "RAG_TOPK_DEFAULT": "5", "ZENGLOW_DATA_DIR": str(tmp_path)}
        code, _, stderr = manage(variables, "config", "check")
        assert code == 2
        assert "RAG_TOP_K_MAX must be at least 100" in stderr
        assert "Did you mean RAG_TOP_K_DEFAULT?" in stderr
        assert stderr.count("RAG_TOP_K_MAX") == 1


class TestProfiles:
    def test_it_is_embedded_and_closed_when_nothing_is_set(self) -> None:
        loaded = environment()
        assert is_embedded(loaded)
        assert not is_reachable(loaded)
        assert not keys_enabled(loaded)
        assert loaded["ZENGLOW_HOST"] == "127.0.0.1"

    def test_it_is_a_service_where_there_is_a_database_url(self) -> None:
        loaded = environment(**SERVICE)
        assert not is_embedded(loaded)
        assert is_reachable(loaded)
        assert keys_enabled(loaded)

    @pytest.mark.parametrize("name", ["REDIS_HOST", "REDIS_PORT", "ZENGLOW_SECRET_KEY"])
    def test_it_needs_every_part_of_the_service_profile(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match=f"{name} is missing") as caught:
            environment(**{**SERVICE, name: ""})
        assert "(1 to fix)" in str(caught.value)

    def test_it_names_everything_that_is_missing_or_wrong_at_once(self) -> None:
        with pytest.raises(ConfigurationError) as caught:
            environment(
                DATABASE_URL="mysql://zenglow:secret-of-mysql@db.example/zenglow",
                REDIS_PORT="ninety",
                ZENGLOW_SECRET_KEY="too-short",
                ZENGLOW_ENV="production",
                RAG_TOP_K_MAX="0",
                ENABLE_API_KEYS="off",
            )
        message = str(caught.value)
        faults = [line.removeprefix("  - ").split(" ", 1)[0] for line in message.splitlines()[1:]]
        assert sorted(faults) == [
            "DATABASE_URL",
            "ENABLE_API_KEYS",
            "RAG_TOP_K_MAX",
            "REDIS_HOST",
            "REDIS_PORT",
            "ZENGLOW_ENV",
            "ZENGLOW_SECRET_KEY",
        ]
        assert "postgres://user:password@host:5432/name" in message
        assert "secret-of-mysql" not in message
        assert "too-short" not in message

    def test_a_command_ends_with_2_and_this_message_alone(self) -> None:
        code, output, errors = manage({"DATABASE_URL": SERVICE["DATABASE_URL"], "RAG_TOP_K_MAX": "many"}, "check")
        assert (code, output) == (2, "")
        assert errors.startswith("The environment is not usable (4 to fix):\n")
        for name in ("REDIS_HOST", "REDIS_PORT", "ZENGLOW_SECRET_KEY", "RAG_TOP_K_MAX"):
            assert f"  - {name} " in errors
        assert "Traceback" not in errors
        assert "secret-of-postgres" not in errors

    def test_it_reads_secrets_from_files(self, tmp_path: Path) -> None:
        files = {}
        for name in ("DATABASE_URL", "ZENGLOW_SECRET_KEY"):
            (tmp_path / name).write_text(f"{SERVICE[name]}\n")
            files[f"{name}_FILE"] = str(tmp_path / name)
        loaded = environment(REDIS_HOST="redis.example", REDIS_PORT="6379", **files)
        assert not is_embedded(loaded)
        assert loaded["ZENGLOW_SECRET_KEY"] == SERVICE["ZENGLOW_SECRET_KEY"]
        assert loaded.origin("DATABASE_URL") == "file"
        with pytest.raises(ConfigurationError, match=r"ZENGLOW_SECRET_KEY_FILE points to .*, which can't be read"):
            environment(**{**SERVICE, "ZENGLOW_SECRET_KEY": "", "ZENGLOW_SECRET_KEY_FILE": str(tmp_path / "none")})


class TestKeys:
    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_they_are_off_where_only_this_machine_reaches_the_server(self, host: str) -> None:
        assert not keys_enabled(environment(ZENGLOW_HOST=host))
        assert keys_enabled(environment(ZENGLOW_HOST=host, ENABLE_API_KEYS="1"))
        assert not keys_enabled(environment(ZENGLOW_HOST=host, ENABLE_API_KEYS="0"))

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "zenglow.example"])
    def test_they_are_on_under_any_other_address(self, host: str) -> None:
        assert keys_enabled(environment(ZENGLOW_HOST=host))

    @pytest.mark.parametrize("reachable", [{"ZENGLOW_HOST": "0.0.0.0"}, SERVICE], ids=["address", "service"])
    def test_turning_them_off_there_needs_a_second_word(self, reachable: Mapping[str, str]) -> None:
        with pytest.raises(ConfigurationError, match="ZENGLOW_ALLOW_ANONYMOUS=1"):
            environment(**reachable, ENABLE_API_KEYS="off")
        assert not keys_enabled(environment(**reachable, ENABLE_API_KEYS="off", ZENGLOW_ALLOW_ANONYMOUS="1"))
        assert not keys_enabled(environment(**reachable, ZENGLOW_ALLOW_ANONYMOUS="1"))
        assert keys_enabled(environment(**reachable, ENABLE_API_KEYS="on", ZENGLOW_ALLOW_ANONYMOUS="1"))

    @pytest.mark.parametrize("stage", ["staging", "prod"])
    def test_they_are_on_from_staging_on(self, stage: str) -> None:
        assert keys_enabled(environment(ZENGLOW_ENV=stage))
        assert not keys_enabled(environment(ZENGLOW_ENV=stage, ENABLE_API_KEYS="0"))


class TestStages:
    @pytest.mark.parametrize(
        ("stage", "log_format", "secure"),
        [("local", "auto", False), ("staging", "json", False), ("prod", "json", True)],
    )
    def test_a_stage_sets_defaults_and_says_so(self, stage: str, log_format: str, secure: bool) -> None:
        loaded = environment(ZENGLOW_ENV=stage)
        assert (loaded["OPS_LOG_FORMAT"], loaded["ZENGLOW_SECURE_COOKIES"]) == (log_format, secure)
        assert loaded.origin("OPS_LOG_FORMAT") == ("default" if stage == "local" else f"default ({stage})")
        assert loaded.origin("ZENGLOW_ENV") == "environment"

    def test_each_default_can_be_overridden(self) -> None:
        loaded = environment(ZENGLOW_ENV="prod", OPS_LOG_FORMAT="console", ZENGLOW_SECURE_COOKIES="no")
        assert (loaded["OPS_LOG_FORMAT"], loaded["ZENGLOW_SECURE_COOKIES"]) == ("console", False)
        assert loaded.origin("OPS_LOG_FORMAT") == loaded.origin("ZENGLOW_SECURE_COOKIES") == "environment"


class TestOldNames:
    def test_they_still_count_with_a_warning_each(self) -> None:
        with pytest.warns(DeprecationWarning, match="is deprecated") as caught:
            loaded = environment(
                FUSION_LTR_WEIGHT="0.6", FUSION_CONCEPTUAL_WEIGHT="0.4", RAG_TOP_K="7", FUSION_MODE="sum"
            )
        assert loaded["RAG_FUSION_LTR_WEIGHT"] == 0.6
        assert loaded["RAG_FUSION_CONCEPTUAL_WEIGHT"] == 0.4
        assert loaded["RAG_TOP_K_DEFAULT"] == 7
        assert sorted(str(warning.message) for warning in caught) == [
            "FUSION_CONCEPTUAL_WEIGHT is deprecated: rename it to RAG_FUSION_CONCEPTUAL_WEIGHT.",
            "FUSION_LTR_WEIGHT is deprecated: rename it to RAG_FUSION_LTR_WEIGHT.",
            "FUSION_MODE is deprecated and no longer means anything: remove it.",
            "RAG_TOP_K is deprecated: rename it to RAG_TOP_K_DEFAULT.",
        ]

    def test_the_new_name_wins(self) -> None:
        loaded = environment(RAG_TOP_K="7", RAG_TOP_K_DEFAULT="8")
        assert loaded["RAG_TOP_K_DEFAULT"] == 8

    def test_a_process_warns_at_its_start(self, tmp_path: Path) -> None:
        variables = {"ZENGLOW_DATA_DIR": str(tmp_path), "FUSION_LTR_WEIGHT": "0.6"}
        code, _, errors = manage(variables, "help", flags=("-W", "always::DeprecationWarning"))
        assert code == 0
        assert "DeprecationWarning: FUSION_LTR_WEIGHT is deprecated: rename it to RAG_FUSION_LTR_WEIGHT." in errors


class TestDatabaseUrl:
    @pytest.mark.parametrize(
        ("url", "expected"),
        [
            ("postgres://u:p%40ss@h:5433/n", {"USER": "u", "PASSWORD": "p@ss", "HOST": "h", "PORT": "5433"}),
            ("postgresql://u@%2Frun%2Fpostgresql/n", {"USER": "u", "HOST": "/run/postgresql"}),
            ("postgres:///n?host=/run/postgresql&user=u", {"USER": "u", "HOST": "/run/postgresql"}),
            ("postgres://u@[::1]/n?sslmode=require", {"USER": "u", "HOST": "::1", "OPTIONS": {"sslmode": "require"}}),
        ],
    )
    def test_it_is_read_as_libpq_reads_it(self, url: str, expected: Mapping[str, object]) -> None:
        nothing = {"USER": "", "PASSWORD": "", "HOST": "", "PORT": "", "OPTIONS": {}}
        assert database_parameters(url) == {"NAME": "n", **nothing, **expected}

    @pytest.mark.parametrize(
        "url",
        [
            "mysql://u@h/n",
            "postgres://h",
            "postgres:///n",
            "postgres://u@h/n?no_such_option=1",
            "postgres://u:p@[h/n",
            "dbname=n host=h",
        ],
    )
    def test_it_refuses_what_names_no_postgresql(self, url: str) -> None:
        with pytest.raises(ValueError, match="must be a URL such as"):
            database_parameters(url)


class TestSecretKey:
    def test_it_is_made_once_for_everybody_who_starts_at_the_same_time(self, tmp_path: Path) -> None:
        found: list[str] = []
        barrier = threading.Barrier(8)

        def start() -> None:
            barrier.wait()
            found.append(secret_key(tmp_path / "data"))

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert len(found[0]) >= 64
        assert [path.name for path in (tmp_path / "data").iterdir()] == ["secret_key"]
        assert (tmp_path / "data" / "secret_key").stat().st_mode & 0o777 == 0o600

    def test_it_stays_the_same(self, tmp_path: Path) -> None:
        assert secret_key(tmp_path) == secret_key(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
    def test_it_says_what_to_do_about_a_damaged_file(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "secret_key").write_bytes(content)
        with pytest.raises(ConfigurationError, match=r"secret_key is damaged\. Remove it"):
            secret_key(tmp_path)

    def test_it_says_where_it_cannot_be_kept(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="choose another folder for the data"):
            secret_key(tmp_path / "file")
