"""What is live, as ``/metrics/json``, ``/metrics`` and the dashboard show it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from models_registry.loading import LoadState, reports
from models_registry.models import Deployment, Slot
from models_registry.processes import all_reports
from models_registry.serving import starts_on_demand

_WORST_FIRST = (LoadState.FAILED, LoadState.LOADING, LoadState.DRAINING, LoadState.READY)


def inventory() -> list[dict[str, Any]]:
    """One entry for each live deployment of a model version or of weights, by slot, scope and role.

    ``state`` is the worst that any process tells of the version; weights need no loading and are ``ready``. ``share``
    is that of a rollout, 0 to 1, and ``None`` for what is stable.
    """
    states = _states()
    live = (
        Deployment.objects.filter(ended_at=None)
        .select_related("model_version__model", "weights")
        .order_by("slot", "scope", "role")
    )
    return [_entry(deployment, states) for deployment in live]


def _entry(deployment: Deployment, states: dict[str, LoadState]) -> dict[str, Any]:
    version = deployment.model_version
    if version is None:
        assert deployment.weights is not None  # noqa: S101  (a constraint of the table)
        name, number, state = Slot.WEIGHTS.value, deployment.weights.version, LoadState.READY
    else:
        name, number = version.model.name, version.number
        waits = starts_on_demand(Slot(deployment.slot), version.model.provider)
        state = states.get(f"{name}@{number}", LoadState.IDLE if waits else LoadState.UNLOADED)
    percent = deployment.percent
    return {
        "slot": deployment.slot,
        "name": name,
        "version": number,
        "state": state.value,
        "scope": deployment.scope,
        "role": deployment.role,
        "share": None if percent is None else percent / 100,
        "since": deployment.started_at.isoformat(),
    }


def _states() -> dict[str, LoadState]:
    told = list(reports())
    with suppress(RedisError):
        told += [report for process in all_reports() for report in process.models]
    return {
        report.label: min(
            (other.state for other in told if other.label == report.label),
            key=lambda state: _WORST_FIRST.index(state) if state in _WORST_FIRST else len(_WORST_FIRST),
        )
        for report in told
    }
