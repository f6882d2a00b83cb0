"""What a new installation starts with. Safe to run again and from several processes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.conf import settings

from models_registry import deployments, weights
from models_registry.locks import session_lock
from models_registry.models import GLOBAL_SCOPE, Deployment, FusionWeights, ModelVersion, Slot
from ops.contracts.principal import SYSTEM

StepReporter = Callable[[str], None]
"""Called with one line for each step that takes time."""

Seeder = Callable[[StepReporter], Mapping[Slot, ModelVersion]]
"""Registers an app's models and versions, idempotently, and returns those to put live where nothing is live yet."""

REASON = "first start"


class SeedingError(Exception):
    """A seeder can't provide its models. The message is one sentence for an operator."""


_seeders: dict[str, Seeder] = {}


def register_seeder(name: str, seeder: Seeder) -> None:
    """Register, or replace, the seeder called ``name``."""
    _seeders[name] = seeder


def seed(report: StepReporter) -> list[Deployment]:
    """Run every seeder, and give each slot that has nothing live in the global scope its first deployment.

    Returns these first deployments. Raises `SeedingError`, and what registering and activating raise.
    """
    made = []
    with session_lock("registry:seed", on_wait=lambda: report("Waiting for another process that is seeding")):
        for name in sorted(_seeders):
            for slot, version in _seeders[name](report).items():
                if _is_empty(slot):
                    made.append(deployments.activate(slot, version, by=SYSTEM, reason=REASON))
        if _is_empty(Slot.WEIGHTS):
            made.append(deployments.activate(Slot.WEIGHTS, _first_weights(), by=SYSTEM, reason=REASON))
    return made


def _is_empty(slot: Slot) -> bool:
    return not deployments.live().filter(slot=slot, scope=GLOBAL_SCOPE).exists()


def _first_weights() -> FusionWeights:
    """The newest weights, or a first version from the settings."""
    newest = FusionWeights.objects.order_by("-version").first()
    if newest is not None:
        return newest
    proposed = weights.propose(settings.RAG_FUSION_LTR_WEIGHT, settings.RAG_FUSION_CONCEPTUAL_WEIGHT)
    return weights.create_version(proposed, by=SYSTEM, reason=REASON)
