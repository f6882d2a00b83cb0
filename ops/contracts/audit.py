"""What the audit trail may hold: each action is declared once, where it is recorded, so that it can be listed."""

from __future__ import annotations

import re


class AuditAction(str):
    """The name of a declared action, ``noun.verb``: ``document.delete``. Made by `declare_action` alone."""

    help: str


_NAME = re.compile(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*")

_declared: dict[str, AuditAction] = {}


def declare_action(name: str, help_text: str) -> AuditAction:
    """Declare an action that `ops.audit.record` may write. Raises `ValueError` for a bad name and for one taken."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an action: write noun.verb, such as document.delete.")
    if name in _declared:
        raise ValueError(f"The action {name!r} is declared already.")
    action = AuditAction(name)
    action.help = help_text
    _declared[name] = action
    return action


def audit_actions() -> tuple[AuditAction, ...]:
    """Every declared action, sorted by name."""
    return tuple(_declared[name] for name in sorted(_declared))
