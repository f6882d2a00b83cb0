"""The audit trail: every change, with who made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ops.contracts.audit import AuditAction
from ops.contracts.principal import Principal, PrincipalKind
from ops.models import AuditEvent

ACTOR_LENGTH = 200
TARGET_LENGTH = 600


def record(
    principal: Principal, action: AuditAction, target: str, details: Mapping[str, Any] | None = None
) -> AuditEvent:
    """Write one event in the caller's transaction: the change and its record stand or fall together.

    ``action`` is one of `declare_action` and reads noun.verb (``document.delete``); ``target`` names the thing, cut to
    what its column holds; ``details`` is JSON without secrets or document text.
    """
    return AuditEvent.objects.create(
        actor=_actor(principal)[:ACTOR_LENGTH],
        action=action,
        target=target[:TARGET_LENGTH],
        details=dict(details or {}),
    )


def _actor(principal: Principal) -> str:
    """``user:ada``, ``api_key:k3jd…``, or ``system``: a user may not pass for a key of the same name."""
    if principal.kind in {PrincipalKind.SYSTEM, PrincipalKind.ANONYMOUS}:
        return principal.name
    return f"{principal.kind.value}:{principal.name}"
