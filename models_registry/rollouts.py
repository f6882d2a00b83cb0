"""Rollouts: a candidate beside the stable version, from its first share to its promotion or its end.

Whoever changes one holds the lock of its scope and slot (`deployments.change_lock`), as every activation does, and
reads the rollout again under it: of two operators at once the second finds what the first has done. Each change is one
transaction, so that a process that is killed leaves what was before. What queries follow are `Deployment` rows alone.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from models_registry import clock, deployments
from models_registry.deployments import Deployable
from models_registry.guardrails import ALPHA, MIN_SAMPLES, checked
from models_registry.locks import lock_until_commit
from models_registry.models import (
    GLOBAL_SCOPE,
    OPEN_ROLLOUTS,
    Deployment,
    FusionWeights,
    ModelVersion,
    Role,
    Rollout,
    RolloutKey,
    RolloutMode,
    RolloutState,
    Slot,
)
from models_registry.scopes import require_write
from ops import audit
from ops.contracts.audit import AuditAction, declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, InvalidRequest, NotFound

START = declare_action("rollout.start", "A candidate gets a share of the traffic, or is computed in its shadow.")
CHANGE = declare_action("rollout.change", "A rollout took a step, paused or went on.")
END = declare_action("rollout.end", "A rollout was promoted, aborted or rolled back.")

DEFAULT_STEPS = (5.0, 25.0, 100.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a rollout goes. ``steps`` are rising shares in per cent; ``guardrails`` are limits by name."""

    mode: RolloutMode = RolloutMode.CANARY
    key: RolloutKey = RolloutKey.REQUEST
    key_name: str = ""
    steps: Sequence[float] = DEFAULT_STEPS
    automatic: bool = False
    step_minutes: float = 60.0
    guardrails: Mapping[str, float | None] = field(default_factory=dict)
    min_samples: int = MIN_SAMPLES
    alpha: float = ALPHA


def start(
    thing: Deployable, scope: str = GLOBAL_SCOPE, plan: Plan | None = None, *, by: Principal, reason: str = ""
) -> Rollout:
    """Give a candidate its first share. What is needed to activate it is needed now.

    Raises `InvalidRequest` for a plan that can't be followed; `Conflict` when a rollout is under way in the scope and
    slot, or the candidate is what is live; and what `deployments.activate` raises.
    """
    plan = plan or Plan()
    limits = _check(plan)
    require_write(scope, by)
    slot = deployments.slot_of(thing)
    with deployments.failures_noted(), transaction.atomic():
        lock_until_commit(deployments.change_lock(slot, scope))
        deployments.require_deployable(slot, thing, scope)
        running = Rollout.objects.filter(scope=scope, slot=slot, state__in=OPEN_ROLLOUTS).first()
        if running is not None:
            raise Conflict(f"{running} is under way: promote or abort it before.", rollout=running.pk)
        baseline = deployments.effective(slot, scope)
        if baseline is None:
            raise Conflict(f"No {slot.label} is live that a candidate could be compared with.")
        if thing in (baseline.model_version, baseline.weights):
            raise Conflict(f"{thing} is live in '{scope}' already.")
        moment = clock.now()
        rollout = Rollout.objects.create(
            scope=scope,
            slot=slot,
            mode=plan.mode,
            model_version=thing if isinstance(thing, ModelVersion) else None,
            weights=thing if isinstance(thing, FusionWeights) else None,
            baseline=baseline,
            key=plan.key,
            key_name=plan.key_name,
            salt=secrets.token_hex(8),
            steps=[float(step) for step in plan.steps],
            automatic=plan.automatic,
            step_minutes=plan.step_minutes,
            guardrails=limits,
            min_samples=plan.min_samples,
            alpha=plan.alpha,
            by=by.name,
            reason=reason,
            started_at=moment,
            stepped_at=moment,
        )
        _give_share(rollout, by=by, reason=reason)
        _note(START, rollout, by, mode=plan.mode, steps=rollout.steps, guardrails=limits, reason=reason)
    return rollout


def step(number: int, *, by: Principal, percent: float | None = None, reason: str = "") -> Rollout:
    """Give the candidate its next share, or ``percent``. Samples are counted anew from here.

    Raises `Conflict` when it is not running or has no next step, `InvalidRequest` for a share out of bounds.
    """
    with _changing(number, by) as rollout:
        _require(rollout, RolloutState.RUNNING)
        if percent is None:
            if rollout.step + 1 >= len(rollout.steps):
                raise Conflict(f"{rollout} has its last share, {rollout.percent:g} %: promote or abort it.")
            rollout.step += 1
        else:
            _check_steps([percent])
            # The plan follows what is done: earlier steps stay, later ones only where they are larger.
            later = [share for share in rollout.steps[rollout.step + 1 :] if share > percent]
            rollout.steps = [*rollout.steps[: rollout.step + 1], float(percent), *later]
            rollout.step += 1
        rollout.stepped_at = clock.now()
        rollout.save(update_fields=["step", "steps", "stepped_at"])
        _give_share(rollout, by=by, reason=reason)
        _note(CHANGE, rollout, by, percent=rollout.percent, reason=reason)
    return rollout


def pause(number: int, *, by: Principal, reason: str = "") -> Rollout:
    """Take the candidate's share away for now. Raises `Conflict` when it is not running."""
    with _changing(number, by) as rollout:
        _require(rollout, RolloutState.RUNNING)
        rollout.state, rollout.outcome = RolloutState.PAUSED, reason
        rollout.save(update_fields=["state", "outcome"])
        deployments.set_share(rollout, _role(rollout), None, by=by, reason=reason)
        _note(CHANGE, rollout, by, paused=True, reason=reason)
    return rollout


def resume(number: int, *, by: Principal, reason: str = "") -> Rollout:
    """Give the candidate the share back that it had. Raises `Conflict` when it is not paused."""
    with _changing(number, by) as rollout:
        _require(rollout, RolloutState.PAUSED)
        deployments.require_deployable(Slot(rollout.slot), rollout.candidate, rollout.scope)
        rollout.state, rollout.outcome, rollout.stepped_at = RolloutState.RUNNING, "", clock.now()
        rollout.save(update_fields=["state", "outcome", "stepped_at"])
        _give_share(rollout, by=by, reason=reason)
        _note(CHANGE, rollout, by, paused=False, reason=reason)
    return rollout


def promote(number: int, *, by: Principal, reason: str = "", readings: Sequence[Any] = ()) -> Rollout:
    """Make the candidate the stable version and end the rollout, both or neither.

    Raises `Conflict` when it has ended, or something else became stable meanwhile, and as `deployments.activate`.
    """
    with _changing(number, by) as rollout:
        _require(rollout, *OPEN_ROLLOUTS)
        current = deployments.effective(Slot(rollout.slot), rollout.scope)
        if current is None or current.pk != rollout.baseline_id:
            raise Conflict(f"Something else became stable since {rollout} started: abort it and start again.")
        why = reason or f"promoted from rollout {rollout.pk}"
        _finish(rollout, RolloutState.PROMOTED, by=by, outcome=why, readings=readings)
        deployments.activate(Slot(rollout.slot), rollout.candidate, rollout.scope, by=by, reason=why)
    return rollout


def is_stable(rollout: Rollout) -> bool:
    """Whether the candidate is what is stable in the rollout's scope now."""
    stable = deployments.effective(Slot(rollout.slot), rollout.scope)
    return stable is not None and _thing_of(stable) == rollout.candidate


def take_back(number: int, *, by: Principal, reason: str = "") -> Deployable:
    """Put back what was stable before a rollout was promoted, and return it.

    Raises `Conflict` unless the rollout was promoted and its candidate is still what is stable.
    """
    rollout = find(number)
    _require(rollout, RolloutState.PROMOTED)

    def still_stable(current: Deployment | None) -> None:
        if current is None or _thing_of(current) != rollout.candidate:
            raise Conflict(f"{rollout.candidate} is not what is stable in '{rollout.scope}' any more.")

    why = reason or f"rollout {rollout.pk} taken back"
    deployments.rollback(Slot(rollout.slot), rollout.scope, by=by, reason=why, precondition=still_stable)
    stable = deployments.effective(Slot(rollout.slot), rollout.scope)
    if stable is None:
        raise AssertionError("a rollback leaves the scope's own or the global choice")
    return _thing_of(stable)


def abort(number: int, *, by: Principal, reason: str = "") -> Rollout:
    """End a rollout; the stable version answers everything again. Raises `Conflict` when it has ended."""
    with _changing(number, by) as rollout:
        _require(rollout, *OPEN_ROLLOUTS)
        _finish(rollout, RolloutState.ABORTED, by=by, outcome=reason or f"aborted by {by.name}")
    return rollout


def roll_back(number: int, *, by: Principal, outcome: str, readings: Sequence[Any] = ()) -> Rollout | None:
    """End a rollout whose candidate breached a guardrail; ``None`` when somebody has ended it meanwhile."""
    with _changing(number, by) as rollout:
        if not rollout.is_open:
            return None
        _finish(rollout, RolloutState.ROLLED_BACK, by=by, outcome=outcome, readings=readings)
    return rollout


def end_after_change(slot: Slot, scope: str, by: Principal) -> None:
    """A hook of `deployments`: what a rollout is compared with is not stable any more, so the rollout ends."""
    for rollout in Rollout.objects.select_for_update(of=("self",)).filter(
        slot=slot, scope=scope, state__in=OPEN_ROLLOUTS
    ):
        _finish(rollout, RolloutState.ABORTED, by=by, outcome=f"{by.name} changed what is stable in '{scope}'")


def find(number: int) -> Rollout:
    """Raises `NotFound`."""
    found = everything().filter(pk=number).first() if 0 < number < 2**63 else None
    if found is None:
        raise NotFound(f"There is no rollout {number}. `manage.py rollout status --all` lists them.")
    return found


def everything() -> QuerySet[Rollout]:
    """Every rollout, newest first, with what it is about."""
    return Rollout.objects.select_related(
        "model_version__model", "weights", "baseline__model_version__model", "baseline__weights"
    )


def underway() -> QuerySet[Rollout]:
    """The open ones."""
    return everything().filter(state__in=OPEN_ROLLOUTS)


@contextmanager
def _changing(number: int, by: Principal) -> Iterator[Rollout]:
    """The rollout, which nobody else can change until the block ends."""
    place = find(number)
    require_write(place.scope, by)
    with deployments.failures_noted(), transaction.atomic():
        lock_until_commit(deployments.change_lock(Slot(place.slot), place.scope))
        yield find(number)


def _thing_of(row: Deployment) -> Deployable:
    thing = row.model_version or row.weights
    if thing is None:
        raise AssertionError("a constraint of the table says that a deployment names one thing")
    return thing


def _require(rollout: Rollout, *states: RolloutState) -> None:
    if rollout.state not in states:
        raise Conflict(f"{rollout} is {RolloutState(rollout.state).label}.")


def _role(rollout: Rollout) -> Role:
    return Role.CANARY if rollout.mode == RolloutMode.CANARY else Role.SHADOW


def _give_share(rollout: Rollout, *, by: Principal, reason: str) -> None:
    deployments.set_share(
        rollout, _role(rollout), rollout.percent, by=by, reason=reason or f"rollout {rollout.pk}: {rollout.percent:g} %"
    )


def _finish(
    rollout: Rollout, state: RolloutState, *, by: Principal, outcome: str, readings: Sequence[Any] = ()
) -> None:
    was_running = rollout.state == RolloutState.RUNNING
    rollout.state, rollout.outcome, rollout.ended_at = state, outcome, clock.now()
    rollout.readings = [reading.as_dict() for reading in readings]
    rollout.save(update_fields=["state", "outcome", "ended_at", "readings"])
    if was_running:
        deployments.set_share(rollout, _role(rollout), None, by=by, reason=outcome)
    _note(END, rollout, by, state=state, outcome=outcome)


def require_usable(plan: Plan) -> None:
    """Raises `InvalidRequest`, which names every fault, for a plan that can't be followed."""
    _check(plan)


def _check(plan: Plan) -> dict[str, float]:
    errors: dict[str, str] = {}
    try:
        _check_steps(plan.steps)
    except InvalidRequest as problem:
        errors |= problem.errors
    by_name = plan.key in {RolloutKey.HEADER, RolloutKey.COOKIE}
    if by_name and not plan.key_name.strip():
        errors["key_name"] = f"Say which {RolloutKey(plan.key).label} tells queries apart."
    if not by_name and plan.key_name:
        errors["key_name"] = "Only a header or a cookie has a name."
    if not (math.isfinite(plan.step_minutes) and 0 < plan.step_minutes <= 60 * 24 * 30):
        errors["step_minutes"] = "More than 0, and at most 30 days."
    if not 1 <= plan.min_samples <= 10_000_000:
        errors["min_samples"] = "From 1 to 10,000,000."
    if not 0 < plan.alpha < 1:
        errors["alpha"] = "Between 0 and 1."
    if plan.mode == RolloutMode.SHADOW and plan.automatic:
        errors["automatic"] = "A shadow serves nobody: compare it, then start a canary."
    try:
        limits = checked(plan.guardrails, shadow=plan.mode == RolloutMode.SHADOW)
    except InvalidRequest as problem:
        errors |= problem.errors
        limits = {}
    if errors:
        raise InvalidRequest(" ".join(f"{name}: {fault}" for name, fault in errors.items()), errors=errors)
    return limits


def _check_steps(steps: Sequence[float]) -> None:
    usable = steps and all(math.isfinite(share) and 0 < share <= 100 for share in steps)
    if not usable or list(steps) != sorted(set(steps)) or len(steps) > 20:
        raise InvalidRequest("", errors={"steps": "From 1 to 20 rising shares, each above 0 and at most 100 per cent."})


def _note(action: AuditAction, rollout: Rollout, by: Principal, **details: Any) -> None:
    audit.record(by, action, f"rollout/{rollout.pk}", {"candidate": str(rollout.candidate), **details})
