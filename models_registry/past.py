"""What was live at a moment: the answer to "what answered this query last Tuesday, and who decided so?".

The deployments say it of weights and models. What else decides an answer belongs to other apps, such as the vector
index of a collection: each registers a `PastSource`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from models_registry import deployments
from models_registry.models import Deployment, FusionWeights
from models_registry.scopes import visible_scopes
from ops.contracts.principal import Principal


@dataclass(frozen=True, slots=True)
class Past:
    """One thing that was live. ``scope`` is ``global`` or a collection; ``until`` is ``None`` where it still is."""

    scope: str
    slot: str
    role: str
    what: str
    since: datetime
    until: datetime | None
    by: str
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


PastSource = Callable[[datetime], Sequence[Past]]
"""Everything of one sort that was live at a moment."""

_sources: dict[str, PastSource] = {}


def register_past(name: str, source: PastSource) -> None:
    """Register, or replace, the source called ``name``. Called by the app that keeps it."""
    _sources[name] = source


def what_was_live(moment: datetime, principal: Principal) -> list[Past]:
    """Everything that decided answers at a moment, in the scopes that the principal may see, by scope and slot."""
    found = [_of_deployment(row) for row in deployments.live_at(moment)]
    for name in sorted(_sources):
        found += _sources[name](moment)
    scopes = visible_scopes(principal)
    shown = [past for past in found if scopes is None or past.scope in scopes]
    return sorted(shown, key=lambda past: (past.scope != "global", past.scope, past.slot, past.role, past.what))


def _of_deployment(row: Deployment) -> Past:
    return Past(
        scope=row.scope,
        slot=row.slot,
        role=row.role,
        what=str(row.model_version or row.weights),
        since=row.started_at,
        until=row.ended_at,
        by=row.by,
        reason=row.reason,
        facts=_facts(row),
    )


def _facts(row: Deployment) -> dict[str, Any]:
    if isinstance(row.weights, FusionWeights):
        ltr, conceptual = row.weights.normalized
        return {"version": row.weights.version, "ltr": ltr, "conceptual": conceptual}
    version = row.model_version
    return {} if version is None else {"artifacts": version.artifacts, "provider": version.model.provider}
