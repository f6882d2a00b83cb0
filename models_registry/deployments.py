"""The only way something becomes live. Every change ends one row and adds another, in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from models_registry import artifacts, clock, versions
from models_registry.locks import lock_until_commit
from models_registry.models import (
    GLOBAL_SCOPE,
    Deployment,
    FusionWeights,
    ModelKind,
    ModelVersion,
    Role,
    Rollout,
    Slot,
    VersionStatus,
)
from models_registry.notices import announce_on_commit
from models_registry.scopes import require_write
from ops import audit
from ops.contracts.audit import AuditAction, declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, Unprocessable

Deployable = ModelVersion | FusionWeights

ACTIVATE = declare_action("deployment.activate", "A version became live.")
DEACTIVATE = declare_action("deployment.deactivate", "A collection's own choice ended; the global one is live there.")
ROLLBACK = declare_action("deployment.rollback", "What was live before became live again.")

STEP = declare_action("deployment.step", "A rollout's candidate got a share of the traffic, or lost it.")

SLOT_OF_KIND = {kind: Slot(kind.value) for kind in ModelKind}
"""Each kind of model has the slot of its name."""

Precondition = Callable[[Deployment | None], None]
"""Called with the row that answers in the scope, while no other writer can change it; raises to refuse the change."""

Guard = Callable[[ModelVersion, str], None]
"""Called with a version and the scope that it is to be live in, under the scope's lock; raises `Unprocessable`."""

StableHook = Callable[[Slot, str, Principal], None]
"""Called with a slot and a scope whose stable version has just changed, in that change's transaction and lock."""

Trial = Callable[[ModelVersion], None]
"""Called with a version before it goes live, outside any transaction; raises `Unprocessable` when it does not work."""

_guards: dict[Slot, Guard] = {}
_trials: dict[Slot, Trial] = {}
_stable_hooks: list[StableHook] = []


def register_guard(slot: Slot, guard: Guard) -> None:
    """Say what a version needs before it is activated in a slot. Called by the app that uses what is in it."""
    _guards[slot] = guard


def register_stable_hook(hook: StableHook) -> None:
    """Ask to be called at each change of a stable version, once."""
    if hook not in _stable_hooks:
        _stable_hooks.append(hook)


def register_trial(slot: Slot, trial: Trial) -> None:
    """Say how a version shows that it works. One that fails is marked so, and what is live stays; nothing forces it."""
    _trials[slot] = trial


def change_lock(slot: Slot, scope: str) -> str:
    """The name of the lock that orders everybody who changes, or relies on, what is live in a scope."""
    return f"deployment:{scope}:{slot}"


def slot_of(thing: Deployable) -> Slot:
    """The slot that a version or weights go into."""
    return Slot.WEIGHTS if isinstance(thing, FusionWeights) else SLOT_OF_KIND[ModelKind(thing.model.kind)]


def activate(
    slot: Slot,
    thing: Deployable,
    scope: str = GLOBAL_SCOPE,
    *,
    by: Principal,
    reason: str = "",
    precondition: Precondition | None = None,
    force: bool = False,
) -> Deployment:
    """Make ``thing`` live in ``slot`` of ``scope`` and return its deployment; what is live already stays as it is.

    Raises `Unprocessable` for a thing of the wrong kind, for a version whose files are missing or damaged or that fails
    its slot's trial and, unless it is ``force``d, for one that its slot's guard refuses; `Forbidden`, `NotFound` for an
    unknown collection, and whatever ``precondition`` raises. The database's clock says when.
    """
    require_write(scope, by)
    _check_kind(slot, thing)
    require_working(thing)
    with transaction.atomic():
        current = _lock_current(slot, scope)
        if precondition is not None:
            precondition(effective(slot, scope))
        if isinstance(thing, ModelVersion) and slot in _guards and not force:
            _guards[slot](thing, scope)
        return _replace(current, slot, thing, scope, by=by, reason=reason, action=ACTIVATE)


def deactivate(
    slot: Slot, scope: str, *, by: Principal, reason: str = "", precondition: Precondition | None = None
) -> Deployment:
    """End a collection's own choice, so that the global one answers there again. Returns the ended row.

    Raises `Unprocessable` for the global scope, which is never left empty, and `Conflict` when there is nothing to end.
    """
    require_write(scope, by)
    if scope == GLOBAL_SCOPE:
        raise Unprocessable("The global choice can be replaced, not removed: every query needs one.")
    with transaction.atomic():
        current = _lock_current(slot, scope)
        if precondition is not None:
            precondition(effective(slot, scope))
        if current is None:
            raise Conflict(f"The collection '{scope}' has no {slot.label} of its own.")
        return _end(current, by=by, reason=reason, action=DEACTIVATE)


def rollback(
    slot: Slot,
    scope: str = GLOBAL_SCOPE,
    *,
    by: Principal,
    reason: str = "",
    precondition: Precondition | None = None,
) -> Deployment | None:
    """Put back what was live in the scope before the last change; a second rollback undoes the first.

    Returns the new row, or ``None`` when the collection had no choice of its own before, so that the global one
    answers again. Raises `Conflict` when there is nothing to go back to.
    """
    require_write(scope, by)
    with failures_noted(), transaction.atomic():
        current = _lock_current(slot, scope)
        if precondition is not None:
            precondition(effective(slot, scope))
        ended = history(slot, scope).filter(ended_at__isnull=False, role=Role.STABLE).order_by("-ended_at", "-id")
        if current is None:
            previous = ended.first()
        else:
            # One change ends a row and starts the next at the same instant; a gap means that nothing was live between.
            previous = ended.filter(ended_at=current.started_at, id__lt=current.id).first()
        if previous is not None:
            thing = _thing(previous)
            if isinstance(thing, ModelVersion):
                _try_out(thing)
            return _replace(current, slot, thing, scope, by=by, reason=reason, action=ROLLBACK)
        if current is None or scope == GLOBAL_SCOPE:
            raise Conflict(f"There is no earlier {slot.label} to go back to in '{scope}'.")
        _end(current, by=by, reason=reason, action=ROLLBACK)
        return None


def require_deployable(slot: Slot, thing: Deployable, scope: str) -> None:
    """Raise as `activate` would for a thing that can't be used in the slot, or that its guard refuses."""
    _check_kind(slot, thing)
    if isinstance(thing, ModelVersion):
        _try_out(thing)
        if slot in _guards:
            _guards[slot](thing, scope)


def set_share(rollout: Rollout, role: Role, percent: float | None, *, by: Principal, reason: str) -> Deployment | None:
    """Give a rollout's candidate this share beside the stable version; ``None`` takes it away. Returns the new row.

    Needs a transaction that holds `change_lock`. Only `models_registry.rollouts` calls it.
    """
    current = live().filter(slot=rollout.slot, scope=rollout.scope, role=role).first()
    moment = _clock(current)
    if current is not None:
        current.ended_at = moment
        current.save(update_fields=["ended_at"])
    row = None
    if percent is not None:
        row = Deployment.objects.create(
            scope=rollout.scope,
            slot=rollout.slot,
            role=role,
            model_version=rollout.model_version,
            weights=rollout.weights,
            rollout=rollout,
            percent=percent,
            started_at=moment,
            by=by.name,
            reason=reason,
        )
    details = {
        "rollout": rollout.pk,
        "candidate": str(rollout.candidate),
        "reason": reason,
        "before": current.percent if current else None,
        "after": percent,
    }
    audit.record(by, STEP, f"{rollout.scope}/{rollout.slot}/{role}", details)
    announce_on_commit()
    return row


def live() -> QuerySet[Deployment]:
    """What is live now, in every scope."""
    return _joined().filter(ended_at__isnull=True)


def live_at(moment: datetime) -> QuerySet[Deployment]:
    """What was live at a time: at most one row per scope, slot and role."""
    return _joined().filter(Q(ended_at__isnull=True) | Q(ended_at__gt=moment), started_at__lte=moment)


def history(slot: Slot | None = None, scope: str | None = None) -> QuerySet[Deployment]:
    """Every deployment, newest first, of one slot or scope if named."""
    rows = _joined().order_by("-started_at", "-id")
    if slot is not None:
        rows = rows.filter(slot=slot)
    if scope is not None:
        rows = rows.filter(scope=scope)
    return rows


def effective(slot: Slot, scope: str) -> Deployment | None:
    """The stable row that answers in a scope: its own, else the global one."""
    rows = {row.scope: row for row in live().filter(slot=slot, role=Role.STABLE, scope__in={scope, GLOBAL_SCOPE})}
    return rows.get(scope) or rows.get(GLOBAL_SCOPE)


def _joined() -> QuerySet[Deployment]:
    return Deployment.objects.select_related("model_version__model", "weights", "rollout")


def _thing(deployment: Deployment) -> Deployable:
    thing = deployment.model_version or deployment.weights
    if thing is None:
        raise AssertionError("a constraint of the table says that a deployment names one thing")
    return thing


def _check_kind(slot: Slot, thing: Deployable) -> None:
    if slot_of(thing) != slot:
        raise Unprocessable(f"{thing} can't be the {slot.label}: its slot is the {slot_of(thing).label}.")


def require_working(thing: Deployable) -> None:
    """Raise `Unprocessable` unless a version's files are whole and it passes the trial of its slot.

    What is found is noted as the version's status, so a broken one shows as failed and a mended one as ready. It never
    replaces what works.
    """
    if isinstance(thing, FusionWeights):
        return
    with failures_noted():
        _try_out(thing)
    versions.set_status(thing, VersionStatus.READY)


class _NotWorkingError(Unprocessable):
    """A version that can't be used; code and status are those of `Unprocessable`."""

    def __init__(self, version: ModelVersion, detail: str) -> None:
        super().__init__(detail)
        self.version = version


@contextmanager
def failures_noted() -> Iterator[None]:
    """Around a transaction that tries a version out: its failure is written once that has been undone."""
    try:
        yield
    except _NotWorkingError as problem:
        versions.set_status(problem.version, VersionStatus.FAILED, str(problem))
        raise


def _try_out(version: ModelVersion) -> None:
    if version.status == VersionStatus.MISSING:
        raise Unprocessable(
            f"{version} can't be used: {version.status_detail} `manage.py registry refresh` looks again."
        )
    try:
        for role, sha256 in version.artifacts.items():
            try:
                artifacts.local_path(sha256)
            except artifacts.ArtifactError as error:
                raise Unprocessable(f"{version} can't be used, its file '{role}' is not well. {error}") from error
        trial = _trials.get(slot_of(version))
        if trial is not None:
            trial(version)
    except Unprocessable as problem:
        raise _NotWorkingError(version, str(problem)) from problem


def _lock_current(slot: Slot, scope: str) -> Deployment | None:
    """The scope's own stable row, which no other writer can change until this transaction ends."""
    lock_until_commit(change_lock(slot, scope))
    return live().filter(slot=slot, scope=scope, role=Role.STABLE).first()


def _replace(
    current: Deployment | None,
    slot: Slot,
    thing: Deployable,
    scope: str,
    *,
    by: Principal,
    reason: str,
    action: AuditAction,
) -> Deployment:
    if current is not None and _thing(current) == thing:
        return current
    moment = _clock(current)
    if current is not None:
        current.ended_at = moment
        current.save(update_fields=["ended_at"])
    row = Deployment.objects.create(
        scope=scope,
        slot=slot,
        model_version=thing if isinstance(thing, ModelVersion) else None,
        weights=thing if isinstance(thing, FusionWeights) else None,
        started_at=moment,
        by=by.name,
        reason=reason,
    )
    _note(action, slot, scope, by=by, reason=reason, before=current, after=row)
    for hook in _stable_hooks:
        hook(slot, scope, by)
    return row


def _end(current: Deployment, *, by: Principal, reason: str, action: AuditAction) -> Deployment:
    current.ended_at = _clock(current)
    current.save(update_fields=["ended_at"])
    _note(action, Slot(current.slot), current.scope, by=by, reason=reason, before=current, after=None)
    for hook in _stable_hooks:
        hook(Slot(current.slot), current.scope, by)
    return current


def _note(
    action: AuditAction,
    slot: Slot,
    scope: str,
    *,
    by: Principal,
    reason: str,
    before: Deployment | None,
    after: Deployment | None,
) -> None:
    details = {
        "reason": reason,
        "before": str(_thing(before)) if before else None,
        "after": str(_thing(after)) if after else None,
    }
    audit.record(by, action, f"{scope}/{slot}", details)
    announce_on_commit()


def _clock(current: Deployment | None) -> datetime:
    """The database's time, read under the lock; never before the current row's start, whatever its clock did."""
    moment = clock.now()
    return max(moment, current.started_at) if current is not None else moment
