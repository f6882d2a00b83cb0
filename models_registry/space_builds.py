"""Blue/green for embedders: a space is filled in the background, checked, switched to atomically, kept, then dropped.

The registry owns the plan and its states; whoever keeps documents registers how a space is filled, checked and dropped
(`SpaceBuilder`). A task works for `SLICE_S` at a time and queues the next, so that builds share the workers with all
other work; one whose worker was killed is queued again and goes on where the vectors end. Queries are answered by the
stable space throughout: the switch is one row of `Deployment`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from django.db import Error, connection, transaction
from django.db.models import F
from django.utils import timezone
from kombu.exceptions import OperationalError as BrokerError

from models_registry import deployments
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
DROP = declare_action("space.drop", "The vectors of the space before a switch were dropped.")

SLICE_S = 10.0
STALLED_AFTER = timedelta(seconds=60)
MAX_ATTEMPTS = 5
"""How often in a row a worker may die over a build, without any progress, before it fails."""

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

    def drop(self, version: ModelVersion, scope: str, by: Principal) -> int:
        """Delete the vectors of a version that answers nothing in the scope; how many that were."""


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
) -> SpaceBuild:
    """Have a space filled by the workers. ``switches``: go over to it as soon as its check has passed.

    Raises `Conflict` when a build is under way in the scope or the version is live there, `Unprocessable` for what is
    no embedder, and as `require_write`. Without a broker nothing is lost: it is queued once the broker is back.
    """
    require_write(scope, by)
    if deployments.slot_of(version) != Slot.EMBEDDER:
        raise Unprocessable(f"{version} is no embedder.")
    if chunks_per_minute is not None and chunks_per_minute < 1:
        raise Unprocessable("The rate must be at least 1 chunk per minute.")
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
    found = SpaceBuild.objects.select_related("version__model", "before__model").filter(pk=number).first()
    if found is None:
        raise NotFound(f"There is no space build {number}. `manage.py embedder builds` lists them.")
    return found


def cancel(number: int, *, by: Principal, reason: str = "") -> SpaceBuild:
    """Give a build up; what was filled stays and can be gone on with. Raises `Conflict` when it is over."""
    build = find(number)
    require_write(build.scope, by)
    with transaction.atomic():
        if not _move(build, OPEN, BuildState.CANCELLED, finished_at=timezone.now(), failure=reason):
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
    lost = losses(build.check_result)
    if lost and not force:
        raise Unprocessable(f"{build.version} is worse than what is live: {'; '.join(lost)}. Force it if you want it.")
    _finish_filling(build)
    with transaction.atomic():
        if not _move(build, (BuildState.READY,), BuildState.SWITCHED, finished_at=timezone.now()):
            raise Conflict(f"{find(number)} is {find(number).get_state_display()}, not ready.")
        why = reason or f"space build {build.pk}"
        deployments.activate(Slot.EMBEDDER, build.version, build.scope, by=by, reason=why)
        audit.record(by, SWITCH, f"{build.scope}/{build.version}", {"build": build.pk, "reason": reason})
    # What was indexed while the switch was made.
    _finish_filling(build)
    return find(number)


def drop(number: int, *, by: Principal) -> int:
    """Delete the vectors of the space before the switch, after which nobody can go back without filling it again.

    Returns how many. Raises `Conflict` unless the build was switched to and is still live.
    """
    build = find(number)
    require_write(build.scope, by)
    if build.state != BuildState.SWITCHED or build.before is None:
        raise Conflict(f"{build} is {build.get_state_display()}: there is no space before it to drop.")
    count = _required().drop(build.before, build.scope, by)
    with transaction.atomic():
        _move(build, (BuildState.SWITCHED,), BuildState.DROPPED)
        audit.record(by, DROP, f"{build.scope}/{build.before}", {"build": build.pk, "vectors": count})
    return count


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
    with _claimed(number) as is_ours:
        build = SpaceBuild.objects.filter(pk=number, state__in=WORKED_ON).select_related("version__model").first()
        if not is_ours or build is None:
            return None
        if build.attempts >= MAX_ATTEMPTS:
            _fail(build, "It ended its worker each time. The worker's log says how.")
            return None
        SpaceBuild.objects.filter(pk=number).update(attempts=F("attempts") + 1, progressed_at=timezone.now())
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

    try:
        build_space.apply_async((number,), countdown=in_s)
    except BrokerError as error:
        logger.warning("The task queue can't be reached; space build %s waits for it (%s)", number, error)


def take_stalled(now: datetime, stalled_after: timedelta = STALLED_AFTER) -> list[int]:
    """Builds without progress for so long, each at most once in that time."""
    with transaction.atomic():
        stalled = SpaceBuild.objects.select_for_update(skip_locked=True).filter(
            state__in=WORKED_ON, progressed_at__lte=now - stalled_after
        )
        numbers = list(stalled.order_by("id").values_list("id", flat=True))
        SpaceBuild.objects.filter(id__in=numbers).update(progressed_at=now)
    return numbers


def _fill_slice(build: SpaceBuild, slice_s: float) -> float | None:
    """Fill for a while: seconds until there may be more, ``None`` when the space is full."""
    started = time.monotonic()
    added = 0
    for count in _required().fill(build.version, build.scope):
        added += count
        progress = _required().progress(build.version, build.scope)
        updated = SpaceBuild.objects.filter(pk=build.pk, state__in=WORKED_ON).update(
            done=progress.done, total=progress.total, progressed_at=timezone.now(), attempts=0
        )
        if not updated:  # cancelled meanwhile
            return None
        # Rated by the batch: what is owed beyond this slice is waited for outside the worker.
        owed_s = 60 * added / build.chunks_per_minute - (time.monotonic() - started) if build.chunks_per_minute else 0
        if owed_s > 0 or time.monotonic() - started >= slice_s:
            return max(owed_s, 0.0)
    return None


def _check(build: SpaceBuild) -> None:
    if not _move(build, (BuildState.FILLING, BuildState.CHECKING), BuildState.CHECKING, progressed_at=timezone.now()):
        return
    found = {
        collection: {side: dict(values) for side, values in of_collection.items()}
        for collection, of_collection in _required().check(build.version, build.scope).items()
    }
    if not _move(build, (BuildState.CHECKING,), BuildState.READY, check_result=found, progressed_at=timezone.now()):
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
    _move(build, WORKED_ON, BuildState.FAILED, failure=failure, finished_at=timezone.now())


def _required() -> SpaceBuilder:
    if _builder is None:
        raise Unprocessable("Nothing here keeps documents, so that there is no space to build.")
    return _builder


@contextmanager
def _claimed(number: int) -> Iterator[bool]:
    """Whether this session now holds the build's lock; it does until the block ends, or its process does."""
    name = f"registry:space-build:{number}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [name])
        is_ours = bool(cursor.fetchone()[0])
    try:
        yield is_ours
    finally:
        if is_ours:
            try:
                with connection.cursor() as cursor:
                    cursor.execute("SELECT pg_advisory_unlock(hashtextextended(%s, 0))", [name])
            except Error:
                logger.warning("The lock of space build %s could not be released; the database does it", number)
