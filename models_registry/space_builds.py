"""Blue/green for embedders: a space is filled in the background, checked, switched to atomically, kept, then dropped.

    start ─ fill ─ check ─(ready)─ switch ─ kept for a rollback ─ dropped
                     ↑________│        └── roll_back ─ dropped

The registry owns the plan and its states; whoever keeps documents registers how a space is filled, checked and dropped
(`SpaceBuilder`). A task works for `SLICE_S` at a time and queues the next, so that builds share the workers with all
other work; one whose worker was killed is queued again and goes on where the vectors end. Queries are answered by the
stable space throughout: the switch is one row of `Deployment`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.conf import settings
from django.db import Error, transaction
from django.db.models import F, QuerySet

from models_registry import background, clock, deployments
from models_registry.background import STALLED_AFTER
from models_registry.locks import lock_until_commit
from models_registry.models import GLOBAL_SCOPE, BuildState, ModelVersion, Slot, SpaceBuild
from models_registry.scopes import require_write
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, NotFound, Problem, Unprocessable

logger = logging.getLogger(__name__)

START = declare_action("space.start", "An embedding space is filled beside the live one.")
CANCEL = declare_action("space.cancel", "The filling of a space was given up; its vectors stay until they are dropped.")
SWITCH = declare_action("space.switch", "Queries are answered in another embedding space.")
ROLL_BACK = declare_action("space.roll_back", "Queries are answered in the embedding space of before the switch again.")
DROP = declare_action("space.drop", "The vectors that a build left behind were dropped.")

SLICE_S = 10.0
MAX_ATTEMPTS = 5
"""How often in a row a worker may die over a build, without any progress, before it fails."""

MAX_KEEP_HOURS = 8760

MAX_LOSS = 0.05
"""By how much nDCG@10 or recall@100 on judged queries may be lower than the live embedder's, absolutely."""

CHECKED = ("ndcg@10", "recall@100")

OPEN = (BuildState.PENDING, BuildState.FILLING, BuildState.CHECKING, BuildState.READY)
WORKED_ON = (BuildState.PENDING, BuildState.FILLING, BuildState.CHECKING)


@dataclass(frozen=True, slots=True)
class Progress:
    """Chunks that have a vector, of all chunks in the scope."""

    done: int
    total: int


class SpaceBuilder(Protocol):
    """What the app that keeps documents does for a space. Each may be called again after it was interrupted."""

    def progress(self, version: ModelVersion, scope: str) -> Progress:
        """How far the space is filled."""

    def fill(self, version: ModelVersion, scope: str) -> Iterator[int]:
        """Fill what is missing, batch by batch; yields how many vectors each added. May be left at any time."""

    def check(self, version: ModelVersion, scope: str) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
        """By collection with judged queries: ``{"candidate": {measure: value}, "stable": {measure: value}}``."""

    def drop(self, version: ModelVersion, scope: str, by: Principal, *, dry_run: bool = False) -> int:
        """Delete the vectors of a version that answers nothing in the scope; how many. ``dry_run``: count them only.

        Raises `Conflict` when something answers with it.
        """


_builder: SpaceBuilder | None = None


def register_space_builder(builder: SpaceBuilder) -> None:
    """Say how spaces are built. Called by the app that keeps documents."""
    global _builder
    _builder = builder


def start(
    version: ModelVersion,
    scope: str = GLOBAL_SCOPE,
    *,
    by: Principal,
    reason: str = "",
    chunks_per_minute: int | None = None,
    switches: bool = False,
    keep_hours: int | None = None,
) -> SpaceBuild:
    """Have a space filled by the workers. ``switches``: go over to it as soon as its check has passed.

    ``keep_hours`` after the switch the space before it is dropped, never for 0; ``REGISTRY_SPACE_KEEP_HOURS`` without.

    Raises `Conflict` when a build is under way in the scope or the version is live there, `Unprocessable` for what is
    no embedder, and as `require_write`. Without a broker nothing is lost: it is queued once the broker is back.
    """
    require_write(scope, by)
    if deployments.slot_of(version) != Slot.EMBEDDER:
        raise Unprocessable(f"{version} is no embedder.")
    if chunks_per_minute is not None and chunks_per_minute < 1:
        raise Unprocessable("The rate must be at least 1 chunk per minute.")
    keep_hours = settings.REGISTRY_SPACE_KEEP_HOURS if keep_hours is None else keep_hours
    if not 0 <= keep_hours <= MAX_KEEP_HOURS:
        raise Unprocessable(f"The space before can be kept for up to {MAX_KEEP_HOURS} hours, or with 0 until dropped.")
    with transaction.atomic():
        lock_until_commit(deployments.change_lock(Slot.EMBEDDER, scope))
        running = SpaceBuild.objects.filter(scope=scope, state__in=OPEN).first()
        if running is not None:
            raise Conflict(f"{running} is {running.get_state_display()}: switch or cancel it before.")
        stable = deployments.effective(Slot.EMBEDDER, scope)
        if stable is not None and stable.model_version == version:
            raise Conflict(f"{version} answers in '{scope}' already.")
        progress = _required().progress(version, scope)
        build = SpaceBuild.objects.create(
            scope=scope,
            version=version,
            before=stable.model_version if stable else None,
            chunks_per_minute=chunks_per_minute,
            switches=switches,
            keep_hours=keep_hours,
            done=progress.done,
            total=progress.total,
            by=by.name,
            reason=reason,
        )
        audit.record(by, START, f"{scope}/{version}", {"build": build.pk, "reason": reason})
        transaction.on_commit(lambda: enqueue(build.pk))
    return build


def find(number: int) -> SpaceBuild:
    """Raises `NotFound`."""
    found = everything().filter(pk=number).first() if 0 < number < 2**63 else None
    if found is None:
        raise NotFound(f"There is no space build {number}. `manage.py embedder builds` lists them.")
    return found


def everything() -> QuerySet[SpaceBuild]:
    """Every build, newest first, with the versions it is about."""
    return SpaceBuild.objects.select_related("version__model", "before__model")


def check(number: int, *, by: Principal) -> SpaceBuild:
    """Have a build that is ready checked again, as when more queries were judged. Raises `Conflict` otherwise."""
    build = find(number)
    require_write(build.scope, by)
    with transaction.atomic():
        if not _move(build, (BuildState.READY,), BuildState.CHECKING, check_result={}, attempts=0):
            raise Conflict(f"{build} is {build.get_state_display()}, not ready.")
        transaction.on_commit(lambda: enqueue(number))
    return find(number)


def cancel(number: int, *, by: Principal, reason: str = "") -> SpaceBuild:
    """Give a build up; what was filled stays and can be gone on with. Raises `Conflict` when it is over."""
    build = find(number)
    require_write(build.scope, by)
    with transaction.atomic():
        if not _move(build, OPEN, BuildState.CANCELLED, finished_at=clock.now(), failure=reason):
            raise Conflict(f"{build} is over.")
        audit.record(by, CANCEL, f"{build.scope}/{build.version}", {"build": build.pk, "reason": reason})
    return find(number)


def switch(number: int, *, by: Principal, reason: str = "", force: bool = False) -> SpaceBuild:
    """Answer by the new space: one change of what is live, at once for every query that begins after it.

    Raises `Conflict` unless the build is ready, `Unprocessable` when its check failed (``force`` overrules it) or
    vectors are missing.
    """
    build = find(number)
    require_write(build.scope, by)
    if build.state != BuildState.READY:
        raise Conflict(f"{build} is {build.get_state_display()}, not ready.")
    lost = losses(build.check_result)
    if lost and not force:
        raise Unprocessable(f"{build.version} is worse than what is live: {'; '.join(lost)}. Force it if you want it.")
    _finish_filling(build)
    with transaction.atomic():
        moment = clock.now()
        drops_at = moment + timedelta(hours=build.keep_hours) if build.keep_hours else None
        if not _move(build, (BuildState.READY,), BuildState.SWITCHED, finished_at=moment, drops_at=drops_at):
            raise Conflict(f"{find(number)} is {find(number).get_state_display()}, not ready.")
        why = reason or f"space build {build.pk}"
        deployments.activate(Slot.EMBEDDER, build.version, build.scope, by=by, reason=why)
        audit.record(by, SWITCH, f"{build.scope}/{build.version}", {"build": build.pk, "reason": reason})
    # What was indexed while the switch was made.
    _finish_filling(build)
    return find(number)


def roll_back(number: int, *, by: Principal, reason: str = "") -> SpaceBuild:
    """Answer by the space of before the switch again, which was kept complete; nothing is dropped by itself then.

    Raises `Conflict` unless the build was switched to and its version still answers.
    """
    build = find(number)
    require_write(build.scope, by)
    if build.state != BuildState.SWITCHED or build.before is None:
        raise Conflict(f"{build} is {build.get_state_display()}: there is no switch to take back.")
    for _ in _required().fill(build.before, build.scope):
        pass  # what was indexed since the last look of the workers
    with transaction.atomic():
        lock_until_commit(deployments.change_lock(Slot.EMBEDDER, build.scope))
        stable = deployments.effective(Slot.EMBEDDER, build.scope)
        if stable is None or stable.model_version != build.version:
            raise Conflict(f"{build.version} does not answer in '{build.scope}' any more.")
        why = reason or f"space build {build.pk} taken back"
        deployments.activate(Slot.EMBEDDER, build.before, build.scope, by=by, reason=why)
        audit.record(by, ROLL_BACK, f"{build.scope}/{build.before}", {"build": build.pk, "reason": reason})
    return find(number)


def note_change(slot: Slot, scope: str, by: Principal) -> None:
    """A hook of `deployments`: who goes back to the space of before a switch, by whichever way, keeps both spaces."""
    stable = deployments.effective(slot, scope) if slot == Slot.EMBEDDER else None
    if stable is not None and stable.model_version_id is not None:
        SpaceBuild.objects.filter(scope=scope, state=BuildState.SWITCHED, before=stable.model_version_id).update(
            state=BuildState.ROLLED_BACK, drops_at=None
        )


def drop(number: int, *, by: Principal, dry_run: bool = False) -> int:
    """Delete the vectors that a build left behind: the space before its switch, or its own when it was given up.

    Returns how many; with ``dry_run`` deletes none. Nobody can go back then without filling the space again. Raises
    `Conflict` when nothing is left behind, or something answers with it.
    """
    build, version = _with_leftover(number, by)
    count = _required().drop(version, build.scope, by, dry_run=dry_run)
    if not dry_run:
        with transaction.atomic():
            _move(build, (BuildState(build.state),), BuildState.DROPPED, drops_at=None)
            audit.record(by, DROP, f"{build.scope}/{version}", {"build": build.pk, "vectors": count})
    return count


def drop_soon(number: int, *, by: Principal) -> SpaceBuild:
    """Have the workers `drop` what a build left behind, which may take minutes. Raises as it does."""
    build, _ = _with_leftover(number, by)
    drop(number, by=by, dry_run=True)
    SpaceBuild.objects.filter(pk=build.pk, state=build.state).update(drops_at=clock.now())
    enqueue_drops()
    return find(number)


def drop_due() -> list[int]:
    """Drop what builds left behind whose time is over; what something still answers with is tried again later."""
    dropped = []
    for build in everything().filter(drops_at__lte=clock.now()):
        with background.claimed(f"registry:space-drop:{build.pk}") as is_ours:
            if not is_ours:
                continue
            try:
                count = drop(build.pk, by=SYSTEM)
            except Problem as problem:
                logger.warning("What %s left behind is kept for now: %s", build, problem)
            else:
                logger.info("%s vectors that %s left behind were dropped", count, build)
                dropped.append(build.pk)
    return dropped


def kept_for(stable: ModelVersion, scopes: Collection[str]) -> list[ModelVersion]:
    """The versions whose spaces are kept for a rollback from ``stable`` in one of the scopes."""
    builds = everything().filter(version=stable, scope__in=scopes, state=BuildState.SWITCHED, before__isnull=False)
    return [build.before for build in builds if build.before is not None]


def _with_leftover(number: int, by: Principal) -> tuple[SpaceBuild, ModelVersion]:
    build = find(number)
    require_write(build.scope, by)
    if build.left_behind is None:
        raise Conflict(f"{build} is {build.get_state_display()}: it has left nothing behind to drop.")
    return build, build.left_behind


def losses(checked: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """What a check speaks against, a sentence each: measures that fall by more than `MAX_LOSS`."""
    return [
        f"{measure} on '{collection}' is {found['candidate'][measure]:.4f} against {found['stable'][measure]:.4f}"
        for collection, found in sorted(checked.items())
        for measure in CHECKED
        if found["candidate"][measure] < found["stable"][measure] - MAX_LOSS
    ]


def work(number: int, slice_s: float = SLICE_S) -> float | None:
    """Work on a build for about ``slice_s``. Returns after how many seconds to go on, ``None`` when there is nothing.

    Nothing is done when another process works on it. A database that goes away is raised: the build stays as it is.
    """
    with background.claimed(f"registry:space-build:{number}") as is_ours:
        build = SpaceBuild.objects.filter(pk=number, state__in=WORKED_ON).select_related("version__model").first()
        if not is_ours or build is None:
            return None
        if build.attempts >= MAX_ATTEMPTS:
            _fail(build, "It ended its worker each time. The worker's log says how.")
            return None
        SpaceBuild.objects.filter(pk=number).update(attempts=F("attempts") + 1, progressed_at=clock.now())
        _move(build, (BuildState.PENDING,), BuildState.FILLING)
        try:
            wait_s = _fill_slice(build, slice_s)
            if wait_s is not None:
                return wait_s
            _check(build)
        except Error:
            raise
        except Problem as problem:
            _fail(build, str(problem))
        except Exception as error:
            logger.exception("%s failed", build)
            _fail(build, f"{type(error).__name__}: {error}")
    return None


def enqueue(number: int, in_s: float = 0.0) -> None:
    from models_registry.tasks import build_space  # which imports this module

    background.queue(build_space, number, in_s)


def enqueue_drops() -> None:
    from models_registry.tasks import drop_spaces  # which imports this module

    background.queue(drop_spaces)


def take_stalled(now: datetime, stalled_after: timedelta = STALLED_AFTER) -> list[int]:
    """As `background.take_stalled`."""
    return background.take_stalled(SpaceBuild.objects.filter(state__in=WORKED_ON), now, stalled_after)


def _fill_slice(build: SpaceBuild, slice_s: float) -> float | None:
    """Fill for a while: seconds until there may be more, ``None`` when the space is full."""
    started = time.monotonic()
    added = 0
    for count in _required().fill(build.version, build.scope):
        added += count
        progress = _required().progress(build.version, build.scope)
        updated = SpaceBuild.objects.filter(pk=build.pk, state__in=WORKED_ON).update(
            done=progress.done, total=progress.total, progressed_at=clock.now(), attempts=0
        )
        if not updated:  # cancelled meanwhile
            return None
        # Rated by the batch: what is owed beyond this slice is waited for outside the worker.
        owed_s = 60 * added / build.chunks_per_minute - (time.monotonic() - started) if build.chunks_per_minute else 0
        if owed_s > 0 or time.monotonic() - started >= slice_s:
            return max(owed_s, 0.0)
    # What was there before, or was indexed with it, was nobody's batch.
    progress = _required().progress(build.version, build.scope)
    SpaceBuild.objects.filter(pk=build.pk).update(done=progress.done, total=progress.total)
    return None


def _check(build: SpaceBuild) -> None:
    if not _move(build, (BuildState.FILLING, BuildState.CHECKING), BuildState.CHECKING, progressed_at=clock.now()):
        return
    found = {
        collection: {side: dict(values) for side, values in of_collection.items()}
        for collection, of_collection in _required().check(build.version, build.scope).items()
    }
    if not _move(build, (BuildState.CHECKING,), BuildState.READY, check_result=found, progressed_at=clock.now()):
        return
    if build.switches:
        lost = losses(found)
        if lost:
            logger.warning("%s is not switched to: %s", build, "; ".join(lost))
        else:
            switch(build.pk, by=SYSTEM, reason=build.reason or f"space build {build.pk}, its check passed")


def _finish_filling(build: SpaceBuild) -> None:
    """Fill what was indexed since the build was full."""
    for _ in _required().fill(build.version, build.scope):
        pass


def _move(build: SpaceBuild, states: tuple[BuildState, ...], state: BuildState, **columns: Any) -> bool:
    """Go from one of ``states`` to ``state``; whether the build was in one of them."""
    return SpaceBuild.objects.filter(pk=build.pk, state__in=states).update(state=state, **columns) > 0


def _fail(build: SpaceBuild, failure: str) -> None:
    _move(build, WORKED_ON, BuildState.FAILED, failure=failure, finished_at=clock.now())


def _required() -> SpaceBuilder:
    if _builder is None:
        raise Unprocessable("Nothing here keeps documents, so that there is no space to build.")
    return _builder
