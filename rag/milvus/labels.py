"""Access lists and metadata as opaque labels of a chunk, and the expression over them that Milvus evaluates.

A label is a hash of fixed length. So nothing of a request is ever part of an expression's syntax, group names and
metadata are not told to Milvus, and equality is JSON's: ``1`` and ``1.0`` are one label, ``1``, ``"1"`` and ``true``
are three.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

from rag.pipeline.eligible import Eligibility

MAX_LABELS = 4096
"""Most elements of an array in Milvus. Further ones are left out: a filter by them does not find the chunk."""

LABEL_CHARACTERS = 32

# Longer than any number that JSON is likely to hold, so that nothing is rounded.
_EXACTLY = Context(prec=2000)


def labels_of(access_groups: Sequence[str], metadata: Mapping[str, Any]) -> list[str]:
    """The labels of a document's chunks, who may read them first."""
    labels = [_access(group) for group in access_groups] or [OPEN]
    for key, value in metadata.items():
        labels += [_holds(key, one) for one in (value if isinstance(value, list) else [value]) if _is_scalar(one)]
    return list(dict.fromkeys(labels))[:MAX_LABELS]


def expression(eligibility: Eligibility, default_groups: Collection[str]) -> str | None:
    """What Milvus is to let through: "" for everything, ``None`` when nothing can be.

    ``default_groups`` are the collection's, for documents without an access list. They are looked up for each search,
    so that they can change without a chunk being written again.
    """
    alternatives: list[list[str]] = []
    if eligibility.groups is not None:
        readable = [_access(group) for group in eligibility.groups]
        if not default_groups or not set(default_groups).isdisjoint(eligibility.groups):
            readable.append(OPEN)
        alternatives.append(readable)
    for key, value in eligibility.filters.items():
        values = list(value) if isinstance(value, list | tuple) else [value]
        alternatives.append([_holds(key, one) for one in values])
    if not all(alternatives):
        return None
    return " and ".join(f"ARRAY_CONTAINS_ANY(labels, {json.dumps(labels)})" for labels in alternatives)


def _access(group: str) -> str:
    return _label("access", group)


def _holds(key: str, value: Any) -> str:
    return _label("metadata", key, *_canonical(value))


def _label(*parts: str) -> str:
    text = json.dumps(parts, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:LABEL_CHARACTERS]


OPEN = _label("open")
"""Of a document without an access list of its own."""


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _canonical(value: Any) -> tuple[str, str]:
    """Equal for what PostgreSQL's jsonb calls equal."""
    if isinstance(value, bool) or value is None:
        return "constant", str(value)
    if isinstance(value, str):
        return "string", value
    number = Decimal(repr(value))
    return "number", "0" if number == 0 else str(number.normalize(_EXACTLY))
