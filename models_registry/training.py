"""Training runs: what versions were made by, kept so that each leads back to its data and its code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from django.utils import timezone

from models_registry.models import TrainingRun
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal

TRAIN = declare_action("training_run.create", "Models were trained; a version made of them names the run.")


def record_run(
    recipe: str,
    *,
    by: Principal,
    started_at: datetime,
    datasets: Sequence[Mapping[str, Any]],
    parameters: Mapping[str, Any],
    metrics: Mapping[str, Any],
    code_revision: str,
) -> TrainingRun:
    """Keep a training that has just ended. ``datasets``: ``[{"collection": slug, "sha256": …}]``."""
    run = TrainingRun.objects.create(
        recipe=recipe,
        parameters=dict(parameters),
        datasets=[dict(dataset) for dataset in datasets],
        metrics=dict(metrics),
        code_revision=code_revision,
        by=by.name,
        started_at=started_at,
        finished_at=timezone.now(),
    )
    audit.record(by, TRAIN, str(run.pk), {"recipe": recipe, "datasets": run.datasets})
    return run
