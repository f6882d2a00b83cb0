"""System checks of the registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register
from django.db import Error as DatabaseFault

from models_registry import artifacts, deployments, weights
from models_registry.models import GLOBAL_SCOPE, RETRIEVAL_SLOTS, Deployment, Role
from ops.contracts.problems import InvalidRequest


@register(Tags.models)
def first_weights_are_usable(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """registry.E001: the weights of the environment could never become the first version."""
    try:
        weights.propose(settings.RAG_FUSION_LTR_WEIGHT, settings.RAG_FUSION_CONCEPTUAL_WEIGHT)
    except InvalidRequest as problem:
        faults = "; ".join(f"the {field} weight {fault}" for field, fault in problem.errors.items())
        return [
            checks.Error(
                f"The first fusion weights can't be used: {faults}.",
                hint="Set RAG_FUSION_LTR_WEIGHT and RAG_FUSION_CONCEPTUAL_WEIGHT, not both to 0.",
                id="registry.E001",
            )
        ]
    return []


@register(Tags.database)
def live_things_are_usable(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[CheckMessage]:
    """registry.W002: nothing is live in a slot. registry.W003: a live version lacks a file."""
    if "default" not in (databases or ()):
        return []
    try:
        rows = list(deployments.live().filter(role=Role.STABLE))
    except DatabaseFault:
        return []  # not migrated yet, or away: other checks say so
    return [*_empty_slots(rows), *_missing_files(rows)]


def _empty_slots(rows: list[Deployment]) -> Iterator[CheckMessage]:
    filled = {row.slot for row in rows if row.scope == GLOBAL_SCOPE}
    for slot in RETRIEVAL_SLOTS:
        if slot not in filled:
            hint = "Run `manage.py seed`."
            yield checks.Warning(f"No {slot.label} is live: no query can be answered.", hint=hint, id="registry.W002")


def _missing_files(rows: list[Deployment]) -> Iterator[CheckMessage]:
    for version in {row.model_version for row in rows if row.model_version is not None}:
        for role, sha256 in version.artifacts.items():
            if not artifacts.is_stored(sha256):
                yield checks.Warning(
                    f"{version} is live, but its file '{role}' ({sha256[:12]}…) is missing.",
                    hint="Restore a backup, or register and activate the version again.",
                    id="registry.W003",
                )
