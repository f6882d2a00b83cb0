"""Rules at work: evaluated every few seconds, replayed over the past, silenced."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from ops.alerting.conditions import Phase, Situation, advance
from ops.alerts import raise_alert, resolve_alert
from ops.audit import record
from ops.contracts.audit import declare_action
from ops.contracts.measures import Measure, measures
from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound, Unprocessable
from ops.models import AlertReading, AlertRule, AlertSeverity, AlertState

logger = logging.getLogger(__name__)

SILENCE = declare_action("alert_rule.silence", "A rule was silenced, or its silence ended.")

INTERVAL = timedelta(seconds=15)
"""How often rules are evaluated."""

READINGS_KEPT = timedelta(days=7)


def evaluate(now: datetime | None = None) -> list[str]:
    """Read every enabled rule's figure and open or end its alert; names of those whose phase changed.

    Safe to be called by several processes at once: each rule is taken by one, and not twice in half an interval.
    """
    now = now or timezone.now()
    for rule in AlertRule.objects.filter(enabled=False, state__phase=Phase.FIRING):
        _end(rule, now)
    return [rule.name for rule in AlertRule.objects.filter(enabled=True) if _evaluate(rule, now)]


def _end(rule: AlertRule, now: datetime) -> None:
    """A rule that was switched off while it was firing leaves no alert open."""
    with transaction.atomic():
        AlertState.objects.filter(rule=rule).update(phase=Phase.OK, since=now)
        resolve_alert(rule.name)


def _evaluate(rule: AlertRule, now: datetime) -> bool:
    AlertState.objects.get_or_create(rule=rule)
    with transaction.atomic():
        state = AlertState.objects.select_for_update(skip_locked=True).filter(rule=rule).first()
        if state is None or (state.read_at is not None and now - state.read_at < INTERVAL / 2):
            return False
        try:
            with transaction.atomic():
                value = _measure(rule).read(rule.labels, now, rule.window)
        except Exception as error:  # a store that is away says nothing about the figure
            if not state.fault:
                logger.warning("The alert rule %s can't be read: %s", rule.name, type(error).__name__)
            state.fault = f"{type(error).__name__}: {error}"[:500]
            state.save(update_fields=["fault"])
            return False
        before = Situation(Phase(state.phase), state.since, state.read_at)
        after = advance(rule.condition, before, now, value)
        state.phase, state.since, state.read_at = after.phase, after.since, after.read_at
        state.value, state.fault = value, ""
        state.save()
        if _measure(rule).history is None:
            AlertReading.objects.create(rule=rule, read_at=now, value=value)
        if after.phase is Phase.FIRING:
            raise_alert(
                rule.name,
                AlertSeverity(rule.severity),
                sentence(rule, value),
                rule_id=rule.pk,
                measure=rule.measure,
                labels=rule.labels,
                value=value,
                threshold=rule.threshold,
                description=rule.description,
            )
        elif before.phase is Phase.FIRING:
            resolve_alert(rule.name)
        return after.phase is not before.phase


def sentence(rule: AlertRule, value: float | None) -> str:
    """What is wrong, in one line: ``latency_p95 (stage embed) is 812.0 ms, above 500.0 ms``."""
    unit = _measure(rule).unit
    labels = ", ".join(f"{name} {text}" for name, text in sorted(rule.labels.items()))
    about = f" ({labels})" if labels else ""
    return f"{rule.measure}{about} is {readable(value, unit)}, {rule.comparison} {readable(rule.threshold, unit)}"


def readable(value: float | None, unit: str) -> str:
    """A figure with its unit."""
    if value is None:
        return "–"
    return f"{value:.1%}" if unit == "ratio" else f"{value:,.4g} {unit}".strip()


@dataclass(frozen=True, slots=True)
class Fired:
    """A time at which a rule would have been firing; ``until`` is ``None`` when it still would."""

    since: datetime
    until: datetime | None
    worst: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What a rule would have said. ``readings`` are in the order of time; ``source`` says where they are from."""

    rule: AlertRule
    readings: tuple[tuple[datetime, float | None], ...]
    fired: tuple[Fired, ...]
    source: str


def replay(rule: AlertRule, since: timedelta, *, now: datetime) -> Replay:
    """Run a rule, as it is now, over the past. Raises `Unprocessable` where nothing is known of it."""
    measure = _measure(rule)
    start = now - since
    if measure.history is not None:
        readings = measure.history(rule.labels, rule.window, start, now, INTERVAL)
        source = "the performance store"
    else:
        readings = list(
            rule.readings.filter(read_at__gte=start, read_at__lte=now)
            .order_by("read_at")
            .values_list("read_at", "value")
        )
        source = f"what was read of it, kept {READINGS_KEPT.days} days"
        if not readings:
            raise Unprocessable(
                f"Nothing is known of {rule.measure} in that time: it has no history but what the enabled rule reads."
            )
    return Replay(rule, tuple(readings), tuple(_fired(rule, readings)), source)


def _fired(rule: AlertRule, readings: list[tuple[datetime, float | None]]) -> Iterator[Fired]:
    situation, since, worst = Situation(), None, 0.0
    pick = max if rule.comparison == "above" else min
    for at, value in readings:
        before, situation = situation, advance(rule.condition, situation, at, value)
        if situation.phase is Phase.FIRING and value is not None:
            if before.phase is not Phase.FIRING:
                since, worst = at, value
            worst = pick(worst, value)
        elif before.phase is Phase.FIRING and since is not None:
            yield Fired(since, at, worst)
            since = None
    if since is not None:
        yield Fired(since, None, worst)


def silence(rule: AlertRule, until: datetime | None, *, by: Principal) -> None:
    """Tell nobody of a rule until then; ``None`` ends a silence. It goes on being evaluated."""
    with transaction.atomic():
        AlertRule.objects.filter(pk=rule.pk).update(silenced_until=until)
        record(by, SILENCE, rule.name, {"until": until.isoformat() if until else None})


def find_rule(name: str) -> AlertRule:
    """The rule of this name. Raises `NotFound`."""
    try:
        return AlertRule.objects.get(name=name)
    except AlertRule.DoesNotExist:
        raise NotFound(f"There is no alert rule '{name}'. `manage.py alerts rules` shows them.") from None


def _measure(rule: AlertRule) -> Measure:
    try:
        return measures()[rule.measure]
    except KeyError:
        raise Unprocessable(f"Nothing measures '{rule.measure}'.") from None
