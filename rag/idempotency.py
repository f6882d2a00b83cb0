"""``Idempotency-Key``: a request that is sent again gets the answer it got, and is not carried out twice.

A key belongs to its principal and lives for 24 hours. The same key with another request is a mistake of the caller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import connection
from django.utils import timezone

from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, InvalidRequest, Unprocessable
from rag.models import IdempotentRequest

RETENTION = timedelta(hours=24)

ABANDONED_AFTER = timedelta(minutes=5)
"""A first request that has no answer after so long died with its server; the next one takes its place."""

MAX_KEY_CHARACTERS = 255


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that can be given again. ``body`` is a JSON value."""

    status: int
    body: Any
    headers: Mapping[str, str]


def answer_once(principal: Principal, key: str, fingerprint: str, answer: Callable[[], Answer]) -> tuple[Answer, bool]:
    """The answer to a request, and whether it is the one that was given before.

    ``fingerprint`` identifies the whole request. Raises `InvalidRequest` for a key that is none, `Unprocessable` when
    the key came with another request, `Conflict` while the first is still being answered, and whatever ``answer``
    raises; then the request may be sent again.
    """
    if not (1 <= len(key) <= MAX_KEY_CHARACTERS and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"An Idempotency-Key has 1 to {MAX_KEY_CHARACTERS} printable ASCII characters.")
    asked_by = f"{principal.kind.value}:{principal.name}"
    record = _claim(asked_by, key, fingerprint)
    if record.status:
        return Answer(record.status, record.body, record.headers), True
    try:
        given = answer()
    except BaseException:
        record.delete()
        raise
    IdempotentRequest.objects.filter(id=record.id).update(
        status=given.status, body=given.body, headers=dict(given.headers)
    )
    return given, False


def fingerprint_of(*parts: bytes) -> str:
    """The sha256 of the parts, each with its length, so that no two requests run together into one."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _claim(asked_by: str, key: str, fingerprint: str) -> IdempotentRequest:
    """The record of this request: its own with status 0, or that of the same request with its answer."""
    while True:
        claimed_id = _insert(asked_by, key, fingerprint)
        record = IdempotentRequest.objects.filter(asked_by=asked_by, key=key).first()
        if record is None:
            continue  # forgotten this moment
        if record.id == claimed_id:
            return record
        age = timezone.now() - record.created_at
        if age > RETENTION or (not record.status and age > ABANDONED_AFTER):
            IdempotentRequest.objects.filter(id=record.id).delete()
            continue
        if record.fingerprint != fingerprint:
            raise Unprocessable("This Idempotency-Key came with another request before. Use a new key.")
        if not record.status:
            raise Conflict("The first request with this Idempotency-Key is still being answered.", retry_after_s=1)
        return record


def _insert(asked_by: str, key: str, fingerprint: str) -> int | None:
    """The id of a new record; None when the principal has used the key already."""
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO rag_idempotentrequest (asked_by, key, fingerprint, status, body, headers, created_at)
            VALUES (%s, %s, %s, 0, 'null', '{}', now())
            ON CONFLICT (asked_by, key) DO NOTHING
            RETURNING id
            """,
            (asked_by, key, fingerprint),
        )
        row = cursor.fetchone()
    return None if row is None else int(row[0])
