from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from ops.logs import LineFormat, logging_configuration
from ops.scrub import REDACTED
from zenglow_site.environment import BASE_DIR

KEY = "zg_abcdefghij_" + "s" * 43


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a handler of our JSON configuration writes, the process's own logging left as it was."""
    configuration = logging_configuration("json", "INFO")
    formatter = dict(configuration["formatters"]["structured"])
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter.pop("()")(**formatter))
    logger = logging.getLogger("tests.ops.logs")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def last(stream: io.StringIO) -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return entry


def test_it_redacts_values_by_their_name_at_any_depth(lines: io.StringIO) -> None:
    structlog.get_logger("tests.ops.logs").warning(
        "loaded", api_key="k", request={"headers": {"Authorization": "x", "Accept": "text/html"}}, urls=[f"a {KEY}"]
    )
    entry = last(lines)
    assert entry["api_key"] == entry["request"]["headers"]["Authorization"] == REDACTED
    assert entry["request"]["headers"]["Accept"] == "text/html"
    assert "ssss" not in lines.getvalue()


def test_it_redacts_lines_of_other_libraries_and_tracebacks(lines: io.StringIO) -> None:
    logger = logging.getLogger("tests.ops.logs")
    try:
        raise ValueError(f"could not connect to redis://:hunter2@cache with {KEY}")
    except ValueError:
        logger.exception("It failed with %s", "postgres://ada:lovelace@db/z")
    entry = last(lines)
    assert "ValueError" in entry["exception"]
    assert entry["level"] == "error"
    assert not [secret for secret in ("hunter2", "lovelace", "ssss") if secret in lines.getvalue()]


def test_it_binds_the_request_to_every_line(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r1"):
        logging.getLogger("tests.ops.logs").warning("plain")
    assert last(lines) == last(lines) | {"request_id": "r1", "event": "plain", "logger": "tests.ops.logs"}


@pytest.mark.parametrize(
    ("line_format", "is_terminal", "is_json"),
    [
        ("auto", True, False),
        ("auto", False, True),
        ("console", True, False),
        ("console", False, False),
        ("json", True, True),
        ("json", False, True),
    ],
)
def test_lines_are_for_people_on_a_terminal_and_json_elsewhere_unless_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, line_format: LineFormat, is_terminal: bool, is_json: bool
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal, raising=False)
    line = written(logging_configuration(line_format, "INFO"), "hello")
    assert ("hello" in line, line.startswith("{")) == (True, is_json)
    assert ("\x1b[" in line) == (is_terminal and not is_json)  # colours are for terminals alone


def test_a_log_file_gets_json_also_of_a_process_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    to_file = logging_configuration("auto", "INFO", tmp_path / "web.log")
    assert json.loads(written(to_file, "hello"))["event"] == "hello"


def test_a_command_whose_output_is_piped_refuses_in_plain_words() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "config", "check"],
        cwd=BASE_DIR,
        env={"PATH": os.defpath, "OPS_LOG_LEVEL": "LOUD"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "OPS_LOG_LEVEL must be one of" in done.stderr
    assert not done.stderr.startswith("{")


@pytest.mark.parametrize("line_format", ["auto", "console", "json"])
def test_its_configuration_is_one_that_logging_accepts(line_format: Any) -> None:
    configuration = logging_configuration(line_format, "WARNING")
    assert configuration["root"]["level"] == "WARNING"
    line = written(configuration, f"hello {KEY}")
    assert "hello" in line
    assert "ssss" not in line


def written(configuration: dict[str, Any], message: str) -> str:
    """The line that a message becomes."""
    formatter = dict(configuration["formatters"]["structured"])
    made: logging.Formatter = formatter.pop("()")(**formatter)
    return made.format(logging.LogRecord("x", logging.INFO, "f", 1, message, None, None))
