"""Who asks: resolved once per request, socket or task, and passed explicitly to every service."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Scope(StrEnum):
    """What a principal may do. ``ADMIN`` implies every other scope."""

    QUERY = "query"
    INGEST = "ingest"
    FEEDBACK = "feedback"
    REGISTRY_READ = "registry:read"
    REGISTRY_WRITE = "registry:write"
    OPS_READ = "ops:read"
    VOICE = "voice"
    ADMIN = "admin"


class PrincipalKind(StrEnum):
    """Where a principal's identity comes from."""

    USER = "user"
    API_KEY = "api_key"
    ANONYMOUS = "anonymous"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Principal:
    """An identity with its rights.

    ``collections`` is ``None`` for "every collection", else the slugs that may be touched. ``name``: a user name, a
    key's public prefix, ``anonymous`` or ``system``.
    """

    kind: PrincipalKind
    name: str
    scopes: frozenset[Scope]
    groups: frozenset[str] = frozenset()
    collections: frozenset[str] | None = None
    user_id: int | None = None

    @property
    def log_name(self) -> str:
        """Who it is, in logs: ``key:`` and the prefix, ``user:`` and the number (a name may be an e-mail address)."""
        match self.kind:
            case PrincipalKind.API_KEY:
                return f"key:{self.name}"
            case PrincipalKind.USER if self.user_id is not None:
                return f"user:{self.user_id}"
        return self.name

    def has_scope(self, scope: Scope) -> bool:
        return Scope.ADMIN in self.scopes or scope in self.scopes

    def may_touch(self, collection: str) -> bool:
        return self.collections is None or collection in self.collections

    @property
    def sees_all_groups(self) -> bool:
        """Administrators and the installation itself read documents whatever their access list."""
        return Scope.ADMIN in self.scopes


SYSTEM = Principal(kind=PrincipalKind.SYSTEM, name="system", scopes=frozenset(Scope))
"""The installation itself: management commands and scheduled tasks."""

LOOPBACK = Principal(kind=PrincipalKind.ANONYMOUS, name="anonymous", scopes=frozenset(Scope))
"""Whoever sits at this machine while keys are off: the server then answers nobody else."""

ANONYMOUS = Principal(kind=PrincipalKind.ANONYMOUS, name="anonymous", scopes=frozenset())
"""Somebody unknown, with no right at all."""
