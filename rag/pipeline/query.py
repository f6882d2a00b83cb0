"""What can be asked: a request's shape and its bounds, the same for REST, pages and commands."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from django.conf import settings

from ops.contracts.problems import InvalidRequest
from rag.pipeline.eligible import Filters

MAX_FILTERS = 32
MAX_ALTERNATIVES = 100

NOT_TEXT = "It holds characters that are not text (NUL or half a surrogate pair)."


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """One question. ``collection`` ``None`` means ``RAG_DEFAULT_COLLECTION``, ``top_k`` ``None`` the default."""

    query: str
    collection: str | None = None
    top_k: int | None = None
    offset: int = 0
    filters: Filters = field(default_factory=dict)
    group_by: Literal["document"] | None = None
    explain: bool = False


def normalize_query(query: str) -> str:
    """Unicode NFC with white space folded, nothing else: two spellings that rank alike share a cache entry."""
    return " ".join(unicodedata.normalize("NFC", query).split())


def validate(request: SearchRequest) -> SearchRequest:
    """The request with its defaults filled in and its query normalised.

    Raises `InvalidRequest` that names every field at fault.
    """
    errors: dict[str, str] = {}
    query = normalize_query(request.query)
    if not query:
        errors["query"] = "Write at least one word."
    elif len(query) > settings.RAG_QUERY_MAX_CHARACTERS:
        errors["query"] = (
            f"At most {settings.RAG_QUERY_MAX_CHARACTERS} characters, not {len(query)}. "
            "Index a long text as a document instead."
        )
    elif not _is_text(query):
        errors["query"] = NOT_TEXT
    top_k = settings.RAG_TOP_K_DEFAULT if request.top_k is None else request.top_k
    if not 1 <= top_k <= settings.RAG_TOP_K_MAX:
        errors["top_k"] = f"From 1 to {settings.RAG_TOP_K_MAX}, not {top_k}."
    if not 0 <= request.offset <= 2 * settings.RAG_CANDIDATE_DEPTH:
        errors["offset"] = f"From 0 to {2 * settings.RAG_CANDIDATE_DEPTH}, not {request.offset}."
    if not _is_text(request.collection or ""):
        errors["collection"] = NOT_TEXT
    if request.group_by not in {None, "document"}:
        errors["group_by"] = "Only 'document' is known."
    errors |= _filter_errors(request.filters)
    if errors:
        raise InvalidRequest(" ".join(f"{name}: {fault}" for name, fault in errors.items()), errors=errors)
    # By position: `dataclasses.replace` takes five times as long.
    return SearchRequest(
        query,
        request.collection or settings.RAG_DEFAULT_COLLECTION,
        top_k,
        request.offset,
        request.filters,
        request.group_by,
        request.explain,
    )


canonical = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode
"""The one JSON text of a value."""


def fingerprint(parts: Mapping[str, object]) -> str:
    """A cache key: sha256 of the canonical JSON of ``parts``."""
    return digest(canonical(parts))


def digest(text: str) -> str:
    """A cache key: the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def _filter_errors(filters: Filters) -> dict[str, str]:
    if len(filters) > MAX_FILTERS:
        return {"filters": f"At most {MAX_FILTERS} keys."}
    errors = {}
    for key, value in filters.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not values or len(values) > MAX_ALTERNATIVES:
            errors[f"filters.{key}"] = f"From 1 to {MAX_ALTERNATIVES} alternatives."
        elif any(not isinstance(one, str | int | float | bool | None) for one in values):
            errors[f"filters.{key}"] = "A string, number, boolean or null, or a list of these."
        elif not all(_is_text(one) for one in [key, *values] if isinstance(one, str)):
            errors[f"filters.{key}"] = NOT_TEXT
        elif not all(math.isfinite(one) for one in values if isinstance(one, float)):
            errors[f"filters.{key}"] = "A number must be finite."
    return errors


def _is_text(text: str) -> bool:
    """Whether PostgreSQL and UTF-8 can hold it."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True
