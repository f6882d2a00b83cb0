"""Watches the rollouts: every two seconds one process reads the variants' statistics and acts on what it finds.

Any number of processes may watch, on any host; the one that holds the lock of the database does, the others wait. When
it is killed its session ends, the lock is free, and the next one goes on from what is in the database and in Redis:
a guardian keeps nothing to itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.db import Error as DatabaseFault
from django.db import connection, transaction

from models_registry import artifacts, clock, deployments, guardrails, rollouts, statistics
from models_registry.guardrails import Reading
from models_registry.models import ModelVersion, Role, Rollout, RolloutMode, RolloutState, Slot
from models_registry.routing import arm_subject
from models_registry.statistics import StatisticsUnavailableError, Tally
from ops.alerts import raise_alert
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import Problem
from ops.models import AlertSeverity

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0
LOCK = "registry:guardian"


@dataclass(frozen=True, slots=True)
class Standing:
    """A rollout's live figures: what the guardrails read of its present share. ``stable`` is the served side."""

    rollout: Rollout
    canary: Tally
    stable: Tally
    readings: list[Reading]

    @property
    def samples(self) -> int:
        return self.canary["answers"]


def standing_of(rollout: Rollout) -> Standing:
    """The figures since the last step. Raises `StatisticsUnavailableError`."""
    canary, stable = _tallies(rollout)
    alpha = rollout.alpha / max(len(rollout.steps), 1)
    readings = guardrails.read(canary, stable, rollout.guardrails, min_samples=rollout.min_samples, alpha=alpha)
    return Standing(rollout, canary, stable, readings)


def look() -> list[str]:
    """Look at every running rollout once, and do what is due; a sentence for each thing that was done."""
    done = []
    for rollout in rollouts.underway().filter(state=RolloutState.RUNNING):
        try:
            sentence = _look_at(rollout)
        except StatisticsUnavailableError:
            logger.warning("%s can't be judged while Redis does not answer; it stays as it is", rollout)
            continue
        except Problem as problem:
            # Somebody else changed it between our look and our step: the next look sees what it is now.
            logger.info("%s: %s", rollout, problem)
            continue
        if sentence:
            logger.warning("%s", sentence)
            done.append(sentence)
    return done


def watch(stopping: threading.Event, on_leading: Callable[[], None] = lambda: None) -> None:
    """Look every `INTERVAL_S` for as long as this process holds the lock, wait for it otherwise, until ``stopping``.

    A database that is away is waited for.
    """
    is_leader = False
    while not stopping.is_set():
        started = time.monotonic()
        try:
            if not is_leader:
                is_leader = _try_lock()
                if is_leader:
                    logger.info("This process watches the rollouts now")
                    on_leading()
            if is_leader:
                look()
        except DatabaseFault as error:
            # The session is gone, and the lock with it.
            logger.warning("The rollouts can't be watched: %s", type(error).__name__)
            is_leader = False
            connection.close()
        stopping.wait(max(INTERVAL_S - (time.monotonic() - started), 0.05))
    if is_leader:
        connection.close()


def _try_lock() -> bool:
    """Take the session's lock. The connection must stay open: it is closed by nobody but `watch`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(hashtextextended(%s, 0))", [LOCK])
        return bool(cursor.fetchone()[0])


def _look_at(rollout: Rollout) -> str:
    baseline = deployments.effective(Slot(rollout.slot), rollout.scope)
    if baseline is None or baseline.pk != rollout.baseline_id:
        rollouts.abort(rollout.pk, by=SYSTEM, reason="Something else became stable: there is nothing to compare with.")
        return f"{rollout} ended: something else became stable."
    missing = _missing_file(rollout)
    if missing:
        return _roll_back(rollout, missing, [])
    standing = standing_of(rollout)
    breached = [reading for reading in standing.readings if reading.breached]
    if breached:
        why = "; ".join(f"{reading.guardrail}: {reading.sentence}" for reading in breached)
        return _roll_back(rollout, why, standing.readings)
    return _step_if_due(rollout, standing)


def _step_if_due(rollout: Rollout, standing: Standing) -> str:
    if not rollout.automatic or standing.samples < rollout.min_samples:
        return ""
    if clock.now() - rollout.stepped_at < timedelta(minutes=rollout.step_minutes):
        return ""
    why = f"{standing.samples:,} answers at {rollout.percent:g} % without a breach"
    if rollout.step + 1 < len(rollout.steps):
        changed = rollouts.step(rollout.pk, by=SYSTEM, reason=why)
        return f"{rollout} has {changed.percent:g} % now: {why}."
    rollouts.promote(rollout.pk, by=SYSTEM, reason=why, readings=standing.readings)
    return f"{rollout} was promoted: {why}."


def _roll_back(rollout: Rollout, why: str, readings: list[Reading]) -> str:
    message = f"{rollout} was rolled back at {rollout.percent:g} %: {why}."
    # Both or neither: a guardian that is killed in between leaves no rollback that nobody was told of.
    with transaction.atomic():
        if rollouts.roll_back(rollout.pk, by=SYSTEM, outcome=why, readings=readings) is None:
            return ""
        raise_alert(
            f"rollout-{rollout.pk}-rolled-back",
            AlertSeverity.WARNING,
            message,
            rollout=rollout.pk,
            candidate=str(rollout.candidate),
            scope=rollout.scope,
            slot=rollout.slot,
            readings=[reading.as_dict() for reading in readings],
        )
    return message


def _missing_file(rollout: Rollout) -> str:
    """What is missing of the candidate, if anything is."""
    candidate = rollout.candidate
    if isinstance(candidate, ModelVersion):
        for role, sha256 in candidate.artifacts.items():
            if not artifacts.is_stored(sha256):
                return f"the file '{role}' of {candidate} is gone"
    return ""


def _tallies(rollout: Rollout) -> tuple[Tally, Tally]:
    """What the candidate and the stable version counted since the last step."""
    role = Role.CANARY if rollout.mode == RolloutMode.CANARY else Role.SHADOW
    share = rollout.deployments.order_by("-id").first()
    if share is None:
        return Counter(), Counter()
    names = [arm_subject(rollout.pk, share.pk, variant) for variant in (role.value, Role.STABLE.value)]
    found = statistics.totals(names)
    return found[names[0]], found[names[1]]
