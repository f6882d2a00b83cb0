"""What `manage.py doctor` looks at in the registry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from django.utils import timezone

from models_registry.models import GLOBAL_SCOPE, Deployment, Role, Slot
from ops.contracts.diagnosis import Finding, Level, register_diagnosis

RECENT = timedelta(hours=24)
ONE_SIDED = 0.98


def register_diagnoses() -> None:
    register_diagnosis("weights", look_at_weights)


def look_at_weights() -> Iterator[Finding]:
    """Live, not all on one side, and whether somebody changed them lately."""
    live = Deployment.objects.filter(slot=Slot.WEIGHTS, role=Role.STABLE, ended_at=None).select_related("weights")
    if not live:
        yield Finding(Level.TROUBLE, "No fusion weights are live.", "manage.py seed")
    for row in live:
        if row.weights is None:
            continue
        ltr, conceptual = row.weights.normalized
        where = f"--collection {row.scope}" if row.scope != GLOBAL_SCOPE else ""
        what = f"Weights of {row.scope}: ltr {ltr:.2f}, conceptual {conceptual:.2f}, version {row.weights.version}"
        if max(ltr, conceptual) > ONE_SIDED:
            back = f"manage.py weights rollback {where}".strip()
            yield Finding(Level.TROUBLE, f"{what}: one of the scores hardly counts.", back)
        elif timezone.now() - row.started_at < RECENT:
            yield Finding(
                Level.NOTE, f"{what}, changed by {row.by} in the last day.", "manage.py registry history --slot weights"
            )
        else:
            yield Finding(Level.OK, f"{what}.")
