"""The two fusion weights: checked, kept as versions, and put live through `deployments`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from django.db import transaction

from models_registry import deployments
from models_registry.models import GLOBAL_SCOPE, Deployment, FusionWeights, Slot
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest, NotFound

CREATE_WEIGHTS = declare_action("weights.create", "There is a new version of the fusion weights, live nowhere yet.")

MAXIMUM = 1_000_000.0
"""Only the ratio of the two matters; the bound keeps their sum and ratio exact enough to be read back."""


@dataclass(frozen=True, slots=True)
class ProposedWeights:
    """Two weights that can be used: finite, in [0, `MAXIMUM`], not both 0."""

    ltr: float
    conceptual: float


def propose(ltr: float, conceptual: float) -> ProposedWeights:
    """The checked weights. Raises `InvalidRequest` that names every fault by its field."""
    errors = {
        name: fault for name, value in (("ltr", ltr), ("conceptual", conceptual)) if (fault := _fault_of(value)) != ""
    }
    if not errors and ltr + conceptual == 0:
        errors = {"ltr": "must not be 0 when the conceptual weight is 0 too"}
    if errors:
        raise InvalidRequest("The fusion weights can't be used.", errors=errors)
    # Adding 0 turns a negative zero into a plain one.
    return ProposedWeights(ltr=ltr + 0.0, conceptual=conceptual + 0.0)


def create_version(proposed: ProposedWeights, *, by: Principal, reason: str = "") -> FusionWeights:
    """A new version, live nowhere yet."""
    with transaction.atomic():
        version = FusionWeights.objects.create(
            ltr=proposed.ltr, conceptual=proposed.conceptual, author=by.name, reason=reason
        )
        details = {"ltr": proposed.ltr, "conceptual": proposed.conceptual, "reason": reason}
        audit.record(by, CREATE_WEIGHTS, f"weights/{version.version}", details)
    return version


def find_version(number: int) -> FusionWeights:
    """The weights of that version. Raises `NotFound`."""
    # A number beyond the column's range is simply not there.
    found = FusionWeights.objects.filter(version=number).first() if 0 < number < 2**31 else None
    if found is None:
        raise NotFound(f"There is no version {number} of the fusion weights.")
    return found


def change(
    proposed: ProposedWeights,
    scope: str = GLOBAL_SCOPE,
    *,
    by: Principal,
    reason: str = "",
    precondition: deployments.Precondition | None = None,
) -> Deployment:
    """Make a new version of the weights and put it live, both or neither. Raises as `deployments.activate` does."""
    with transaction.atomic():
        version = create_version(proposed, by=by, reason=reason)
        return deployments.activate(Slot.WEIGHTS, version, scope, by=by, reason=reason, precondition=precondition)


def _fault_of(value: float) -> str:
    if not math.isfinite(value):
        return "must be a finite number"
    if value < 0:
        return "must not be negative"
    if value > MAXIMUM:
        return f"must be at most {MAXIMUM:g}"
    return ""
