"""Strict reading of JSON bodies: what passes here can be stored, hashed and written back unchanged."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from rest_framework.parsers import BaseParser

from ops.contracts.problems import InvalidRequest, TooLarge, UnsupportedMedia

MAX_DEPTH = 64
"""Deepest nesting of arrays and objects that is read."""


class StrictJSONParser(BaseParser):
    """JSON in UTF-8, bounded in size (``DATA_UPLOAD_MAX_MEMORY_SIZE``) and depth; no NaN, NUL or lone surrogates."""

    media_type = "application/json"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        _ensure_utf8_declared(media_type or "")
        return parse_json(read_bounded(stream, (parser_context or {}).get("request")))


def parse_json(body: bytes) -> Any:
    """The value of a JSON text. Raises `InvalidRequest` with the place and nature of the fault."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} can't be decoded.") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except ValueError:  # more digits than Python turns into a number
        raise InvalidRequest("The body holds a number that is too long.") from None
    _ensure_storable(value)
    return value


def read_bounded(stream: IO[Any], request: Any) -> bytes:
    """A body, if it is no larger than ``DATA_UPLOAD_MAX_MEMORY_SIZE``; else raises `TooLarge`."""
    limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    declared = str(request.META.get("CONTENT_LENGTH") or "") if request is not None else ""
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    # Read one byte further than allowed: a chunked body has no declared length.
    body: bytes = stream.read(limit + 1)
    if len(body) > limit:
        raise _too_large(limit)
    return body


def _ensure_utf8_declared(media_type: str) -> None:
    for parameter in media_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip(" \"'").lower() not in {"utf-8", "utf8"}:
            raise UnsupportedMedia("JSON is read as UTF-8 only.")


def _ensure_storable(value: Any) -> None:
    """Raise `InvalidRequest` for what JSON can spell but PostgreSQL, UTF-8 or arithmetic can't hold."""
    pending: list[tuple[Any, int]] = [(value, 0)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, str):
            _ensure_text(item)
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise InvalidRequest("The body holds a number that is too large.")
        elif isinstance(item, dict | list):
            if depth >= MAX_DEPTH:
                raise _too_deep()
            inner = item.values() if isinstance(item, dict) else item
            pending.extend((entry, depth + 1) for entry in inner)
            if isinstance(item, dict):
                pending.extend((name, depth + 1) for name in item)


def _ensure_text(text: str) -> None:
    if "\x00" in text:
        raise InvalidRequest("The body holds a NUL character (\\u0000), which text can't hold.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("The body holds half of a surrogate pair, which is no character.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidRequest(f"The body is not JSON: {name} is no JSON number.")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body is larger than the {limit} bytes that are read.", limit_bytes=limit)
