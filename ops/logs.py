"""How log lines look, and that no secret and no personal data is in them."""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog

from ops import tracing
from ops.scrub import scrub_value

_OURS = frozenset({"timestamp", "level", "logger", "request_id", "trace_id", "span_id", "query_hmac"})
"""Fields that are made here and hold an identifier, in which digits may look like anything."""


LineFormat = Literal["auto", "console", "json"]


def logging_configuration(line_format: LineFormat, level: str, file: Path | None = None) -> dict[str, Any]:
    """The value of Django's ``LOGGING``. Call `configure_structlog` once the process starts.

    Lines go to standard error, or are appended to ``file``, which may be moved away while it is written. Where they
    are not wanted in one format everywhere (``auto``), a terminal gets lines for people and all else gets JSON.
    """
    is_terminal = file is None and sys.stderr.isatty()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"with_traceback": {"()": OnlyWithTraceback}},
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    scrub_event,
                    _renderer(line_format, is_terminal=is_terminal),
                ],
                "foreign_pre_chain": _shared_processors(),
            }
        },
        "handlers": {"lines": {**_destination(file), "formatter": "structured"}},
        "root": {"handlers": ["lines"], "level": level},
        "loggers": {
            # The request line tells of refusals; Django adds what it alone knows, the traceback.
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.request": {"level": "ERROR", "filters": ["with_traceback"]},
            "django.security.DisallowedHost": {"level": "CRITICAL"},
            "django.channels.server": {"level": "WARNING"},
            "daphne": {"level": "WARNING"},
            "httpx": {"level": "WARNING"},
            # It tells of each exchange that a session manager began with it and ended.
            "mcp": {"level": "WARNING"},
            # Tasks have a line of their own, with the ids of the request that wanted them: `ops.task_context`.
            "celery": {"level": "WARNING"},
            # It misses the host name in the address of a socket file.
            "kombu.connection": {"level": "ERROR"},
        },
    }


def configure_structlog() -> None:
    """Send ``structlog.get_logger()`` through the standard library's handlers."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def add_trace_ids(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The ids of the current span, by which a line and its trace find each other."""
    event.update(tracing.current_ids())
    return event


def scrub_event(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take personal data and secrets out of every value of a log event, at any depth."""
    for name, value in event.items():
        if name not in _OURS:
            event[name] = scrub_value(value, name)
    return event


class OnlyWithTraceback(logging.Filter):
    """Drops Django's line for a 5xx answer that says no more than the request line does."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        add_trace_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _destination(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {"class": "logging.StreamHandler", "stream": "ext://sys.stderr"}
    return {"class": "logging.handlers.WatchedFileHandler", "filename": str(file), "encoding": "utf-8", "delay": True}


def _renderer(line_format: LineFormat, *, is_terminal: bool) -> structlog.typing.Processor:
    if line_format == "json" or (line_format == "auto" and not is_terminal):
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.dev.ConsoleRenderer(colors=is_terminal, exception_formatter=structlog.dev.plain_traceback)
