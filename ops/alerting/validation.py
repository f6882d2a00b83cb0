"""What a rule or a channel may say. Faults are Django's, by field, for the admin; commands show them as they are."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from ops.alerting.conditions import Comparison
from ops.contracts.measures import measures
from ops.contracts.problems import Problem

if TYPE_CHECKING:
    from ops.models import AlertChannel, AlertRule


def new_salt() -> str:
    """A new webhook key is made by a new one."""
    return secrets.token_hex(16)


def check_rule(rule: AlertRule) -> None:
    """Raise `ValidationError` for a measure or labels that there are not, and for hysteresis the wrong way round."""
    measure = measures().get(rule.measure)
    if measure is None:
        raise ValidationError({"measure": f"Choose one of {', '.join(measures())}."})
    labels = rule.labels
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise ValidationError({"labels": 'Write an object of texts, such as {"stage": "embed"}.'})
    if unknown := set(labels) - set(measure.labels):
        known = ", ".join(measure.labels) or "none"
        raise ValidationError({"labels": f"{rule.measure} has no {', '.join(sorted(unknown))}; it has: {known}."})
    for name, value in labels.items():
        if name in measure.values and value not in measure.values[name]:
            raise ValidationError({"labels": f"There is no {name} {value!r}: {', '.join(measure.values[name])}."})
    if rule.clear_threshold is not None and rule.threshold is not None:
        better = rule.clear_threshold - rule.threshold
        if (better > 0) if rule.comparison == Comparison.ABOVE else (better < 0):
            raise ValidationError({"clear_threshold": "This must lie on the good side of the threshold."})


def check_channel(channel: AlertChannel) -> None:
    """Raise `ValidationError` for a target that this kind can't reach or that this server does not call."""
    from ops.outgoing import ensure_allowed

    if channel.kind == "email":
        for address in addresses(channel.target):
            try:
                validate_email(address)
            except ValidationError as fault:
                raise ValidationError({"target": f"{address!r} is no mail address."}) from fault
        return
    try:
        ensure_allowed(channel.target)
    except Problem as problem:
        raise ValidationError({"target": problem.detail}) from problem


def addresses(target: str) -> list[str]:
    """The mail addresses of a channel; at least one, maybe an empty text."""
    return [address.strip() for address in target.split(",")]
