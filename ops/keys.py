"""API keys: made, verified, listed, rotated and revoked.

A key reads ``zg_<prefix>_<secret>``. The prefix is public (it names the key in logs and lists); of the whole key only
an HMAC-SHA256 is stored, keyed from ``SECRET_KEY``, so that a copy of the database opens nothing.
"""

from __future__ import annotations

import math
import re
import secrets
import string
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, Literal

from django.db import models, transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac

from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal, PrincipalKind, Scope
from ops.contracts.problems import Conflict, InvalidRequest, NotFound
from ops.instrumentation.batch import BatchWriter
from ops.models import ApiKey
from ops.sockets.groups import tell_principals_changed

CREATE_KEY = declare_action("api_key.create", "A new API key may be used.")
ROTATE_KEY = declare_action("api_key.rotate", "A new API key takes the place of another, which ends a while later.")
REVOKE_KEY = declare_action("api_key.revoke", "An API key may not be used any more.")

PREFIX_LENGTH = 10
PREFIX_ALPHABET = string.ascii_lowercase + string.digits
SECRET_LENGTH = 43  # 43 letters of 62 carry 256 bits
SECRET_ALPHABET = string.ascii_letters + string.digits
KEY_PATTERN = re.compile(rf"zg_([a-z0-9]{{{PREFIX_LENGTH}}})_([A-Za-z0-9]{{{SECRET_LENGTH}}})")

VERIFICATION_TTL_S = 0.4
"""How long a verification is reused: the longest that a revoked key keeps working for requests. An open socket, which
asks every `ops.sockets.consumer.KEY_CHECK_INTERVAL_S`, ends within the sum of both, which is less than a second."""
VERIFICATIONS_KEPT = 4096
LAST_USED_RESOLUTION_S = 60.0
ROTATION_OVERLAP = timedelta(hours=24)
LONGEST_ROTATION_OVERLAP = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, with the only copy of its secret."""

    record: ApiKey
    text: str


def create_key(
    name: str,
    scopes: Iterable[Scope | str],
    *,
    actor: Principal,
    groups: Iterable[str] = (),
    collections: Iterable[str] | None = None,
    expires_at: datetime | None = None,
) -> NewKey:
    """Make a key. Raises `InvalidRequest` for an unknown scope, no scope, no name or an expiry in the past."""
    chosen = _valid_scopes(scopes)
    if not name.strip():
        raise InvalidRequest("A key needs a name.", errors={"name": "This may not be empty."})
    if expires_at is not None and expires_at <= timezone.now():
        raise InvalidRequest("The expiry lies in the past.", errors={"expires_at": "Choose a later time."})
    with transaction.atomic():
        made = _new_key(
            name=name.strip(),
            scopes=chosen,
            groups=sorted(set(groups)),
            collections=None if collections is None else sorted(set(collections)),
            created_by=actor.name,
            expires_at=expires_at,
        )
        audit.record(actor, CREATE_KEY, made.record.prefix, {"name": made.record.name, "scopes": chosen})
    return made


def rotate_key(prefix: str, *, actor: Principal, overlap: timedelta = ROTATION_OVERLAP) -> NewKey:
    """Make a key with the rights, name and expiry of another, which ends after ``overlap``: time to put the new one in.

    Raises `NotFound`, `Conflict` for a key that has ended already, `InvalidRequest` for an overlap out of bounds.
    """
    if not timedelta(0) <= overlap <= LONGEST_ROTATION_OVERLAP:
        fault = f"The overlap must be from 0 to {LONGEST_ROTATION_OVERLAP.days} days."
        raise InvalidRequest(fault, errors={"overlap": fault})
    with transaction.atomic():
        old = _locked(prefix)
        if state_of(old) != "active":
            raise Conflict(f"The key {prefix} is {state_of(old)}: make a new one.")
        made = _new_key(
            name=old.name,
            scopes=old.scopes,
            groups=old.groups,
            collections=old.collections,
            created_by=actor.name,
            expires_at=old.expires_at,
        )
        ends_at = timezone.now() + overlap
        old.expires_at = ends_at if old.expires_at is None else min(old.expires_at, ends_at)
        old.save(update_fields=["expires_at"])
        details = {"name": old.name, "replaces": prefix, "old_ends_at": old.expires_at.isoformat(timespec="seconds")}
        audit.record(actor, ROTATE_KEY, made.record.prefix, details)
        tell_principals_changed()
    _verifications.clear()
    return made


def verify(text: str) -> Principal | None:
    """The principal of a key, or ``None`` for a key that is unknown, wrong, expired or revoked.

    An answer, good or bad, is reused for `VERIFICATION_TTL_S`. Raises a database error when it can't be looked up.
    """
    match = KEY_PATTERN.fullmatch(text)
    if match is None:
        return None
    key_hash = _hash(text)
    now = time.monotonic()
    known = _verifications.get(key_hash)
    if known is not None and known[0] > now:
        return known[1]
    principal = _look_up(match[1], key_hash)
    if len(_verifications) >= VERIFICATIONS_KEPT:
        _verifications.clear()
    # Counted from before the query, so that a revocation meanwhile is not outlived.
    _verifications[key_hash] = (now + VERIFICATION_TTL_S, principal)
    return principal


def list_keys() -> models.QuerySet[ApiKey]:
    """Every key, the newest first."""
    return ApiKey.objects.all()


def revoke_key(prefix: str, *, actor: Principal) -> ApiKey:
    """End a key, for good. Revoking it again changes nothing. Raises `NotFound`."""
    with transaction.atomic():
        record = _locked(prefix)
        if record.revoked_at is None:
            record.revoked_at = timezone.now()
            record.save(update_fields=["revoked_at"])
            audit.record(actor, REVOKE_KEY, prefix, {"name": record.name})
            tell_principals_changed()
    _verifications.clear()
    return record


def forget_verifications() -> None:
    """Look every key up afresh, in this process."""
    _verifications.clear()


def state_of(record: ApiKey) -> Literal["active", "expired", "revoked"]:
    """Whether a key opens anything just now."""
    if record.revoked_at is not None:
        return "revoked"
    if record.expires_at is not None and record.expires_at <= timezone.now():
        return "expired"
    return "active"


@cache
def last_used_writer() -> BatchWriter[tuple[str, datetime]]:
    """Writes ``last_used_at`` off the request path."""
    return BatchWriter("ops_apikey", _write_last_used, interval_ms=1000, capacity=10_000)


_verifications: dict[str, tuple[float, Principal | None]] = {}
_last_noted: dict[str, float] = {}


def _new_key(**columns: Any) -> NewKey:
    prefix = _random(PREFIX_ALPHABET, PREFIX_LENGTH)
    text = f"zg_{prefix}_{_random(SECRET_ALPHABET, SECRET_LENGTH)}"
    return NewKey(ApiKey.objects.create(prefix=prefix, key_hash=_hash(text), **columns), text)


def _locked(prefix: str) -> ApiKey:
    record = ApiKey.objects.select_for_update().filter(prefix=prefix).first()
    if record is None:
        raise NotFound(f"There is no key with the prefix {prefix}.")
    return record


def _look_up(prefix: str, key_hash: str) -> Principal | None:
    record = ApiKey.objects.filter(prefix=prefix).first()
    # Compared also when nothing was found, so that the time taken does not tell which prefixes exist.
    matches = constant_time_compare(key_hash, record.key_hash if record else _hash(prefix))
    if record is None or not matches or state_of(record) != "active":
        return None
    _note_use(prefix)
    return Principal(
        kind=PrincipalKind.API_KEY,
        name=prefix,
        scopes=frozenset(Scope(scope) for scope in record.scopes if scope in set(Scope)),
        groups=frozenset(record.groups),
        collections=None if record.collections is None else frozenset(record.collections),
    )


def _note_use(prefix: str) -> None:
    """Keep the time of use for `last_used_writer`, at most once a minute in this process."""
    now = time.monotonic()
    if now - _last_noted.get(prefix, -math.inf) >= LAST_USED_RESOLUTION_S:
        _last_noted[prefix] = now
        last_used_writer().add((prefix, timezone.now()))


def _write_last_used(uses: Sequence[tuple[str, datetime]]) -> None:
    for prefix, used_at in uses:
        ApiKey.objects.filter(prefix=prefix).exclude(last_used_at__gt=used_at).update(last_used_at=used_at)


def _valid_scopes(scopes: Iterable[Scope | str]) -> list[str]:
    chosen = sorted(set(map(str, scopes)))
    known = [scope.value for scope in Scope]
    unknown = [scope for scope in chosen if scope not in known]
    if unknown or not chosen:
        fault = f"There is no scope {unknown[0]!r}." if unknown else "A key needs at least one scope."
        raise InvalidRequest(f"{fault} The scopes are {', '.join(known)}.", errors={"scopes": fault})
    return chosen


def _hash(text: str) -> str:
    return salted_hmac("ops.keys", text, algorithm="sha256").hexdigest()


def _random(alphabet: str, length: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(length))
