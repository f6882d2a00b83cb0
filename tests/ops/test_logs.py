from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from ops.logs import logging_configuration
from ops.scrub import REDACTED

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


@pytest.mark.parametrize("line_format", ["console", "json"])
def test_its_configuration_is_one_that_logging_accepts(line_format: Any) -> None:
    configuration = logging_configuration(line_format, "WARNING")
    assert configuration["root"]["level"] == "WARNING"
    formatter = dict(configuration["formatters"]["structured"])
    made = formatter.pop("()")(**formatter)
    record = logging.LogRecord("x", logging.INFO, "f", 1, f"hello {KEY}", None, None)
    assert "hello" in made.format(record)
    assert "ssss" not in made.format(record)
