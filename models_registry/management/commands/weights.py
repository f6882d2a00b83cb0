"""``manage.py weights``: the two fusion weights from the shell."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any

from django.core.management.base import BaseCommand

from models_registry import deployments, weights
from models_registry.management.refusals import refusals
from models_registry.models import GLOBAL_SCOPE, Slot
from models_registry.scopes import readable_scope
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import NotFound


class Command(BaseCommand):
    help = "Show or change the weights that the learned and the conceptual score are fused with."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        show = actions.add_parser("show", help="the weights that answer")
        change = actions.add_parser("set", help="make a new version and put it live")
        change.add_argument("ltr", type=float, help="weight of the learned score; only the ratio matters")
        change.add_argument("conceptual", type=float, help="weight of the conceptual score")
        rollback = actions.add_parser("rollback", help="put back what was live before, or a version")
        rollback.add_argument("--to", type=int, metavar="VERSION", help="the version to put back")
        for action in (show, change, rollback):
            action.add_argument("--collection", help="slug; without it the global weights")
        for action in (change, rollback):
            action.add_argument("--reason", default="", help="why; kept in the history")

    def handle(self, *, action: str, **options: Any) -> None:
        with refusals():
            scope = readable_scope(options["collection"], SYSTEM)
            if action == "set":
                proposed = weights.propose(options["ltr"], options["conceptual"])
                weights.change(proposed, scope, by=SYSTEM, reason=options["reason"])
            elif action == "rollback":
                _roll_back(scope, options)
            self.stdout.write(_sentence(scope))


def _roll_back(scope: str, options: Mapping[str, Any]) -> None:
    if options["to"] is None:
        deployments.rollback(Slot.WEIGHTS, scope, by=SYSTEM, reason=options["reason"])
    else:
        version = weights.find_version(options["to"])
        deployments.activate(Slot.WEIGHTS, version, scope, by=SYSTEM, reason=options["reason"])


def _sentence(scope: str) -> str:
    row = deployments.effective(Slot.WEIGHTS, scope)
    if row is None or row.weights is None:
        raise NotFound("No fusion weights are live yet. `manage.py seed` provides the first.")
    ltr, conceptual = row.weights.normalized
    inherited = f" for '{scope}', from the global weights" if row.scope != scope else ""
    own = f" for '{scope}'" if row.scope == scope != GLOBAL_SCOPE else ""
    reason = f" ({row.reason})" if row.reason else ""
    return (
        f"version {row.weights.version}{inherited}{own}: ltr {ltr:.4g}, conceptual {conceptual:.4g}; "
        f"live since {row.started_at:%Y-%m-%d %H:%M:%S} UTC by {row.by}{reason}"
    )
