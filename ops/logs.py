"""How log lines look, and that no secret is in them."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, Literal

import structlog

REDACTED = "[redacted]"
SECRET_NAMES = re.compile(r"(?i)(^|_|-)(authorization|password|passwd|secret|token|api_?key|cookie|credentials)($|_|-)")
"""Names of fields whose value is never written."""

_NAMED_VALUE = r"[\"']?\s*[:=]\s*[\"']?"
_SECRETS_IN_TEXT = (
    (re.compile(r"\bzg_([a-z0-9]{1,16})_[A-Za-z0-9]+"), rf"zg_\1_{REDACTED}"),
    (re.compile(rf"(?i)\b(authorization{_NAMED_VALUE})(?:(?:basic|bearer|token)\s+)?[^\s\"',;]+"), rf"\1{REDACTED}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s@]+@"), rf"\1:{REDACTED}@"),
    (re.compile(rf"(?i)\b((?:password|secret[_-]?key|api[_-]?key){_NAMED_VALUE})[^\s\"',;&]+"), rf"\1{REDACTED}"),
)


def logging_configuration(
    line_format: Literal["console", "json"], level: str, file: Path | None = None
) -> dict[str, Any]:
    """The value of Django's ``LOGGING``. Call `configure_structlog` once the process starts.

    Lines go to standard error, or are appended to ``file``, which may be moved away while it is written.
    """
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
                    redact,
                    _renderer(line_format, colors=file is None and sys.stderr.isatty()),
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


def redact(logger: object, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace secrets in every value of a log event, at any depth."""
    for name, value in event.items():
        event[name] = _redacted(name, value)
    return event


def redact_text(text: str) -> str:
    """``text`` without keys, bearer tokens and passwords in URLs."""
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


class OnlyWithTraceback(logging.Filter):
    """Drops Django's line for a 5xx answer that says no more than the request line does."""

    def filter(self, record: logging.LogRecord) -> bool:
        return bool(record.exc_info)


def _redacted(name: str, value: Any) -> Any:
    if SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted("", inner) for inner in value]
    return value


def _shared_processors() -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
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


def _renderer(line_format: Literal["console", "json"], *, colors: bool) -> structlog.typing.Processor:
    if line_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
