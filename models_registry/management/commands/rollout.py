"""``manage.py rollout``: give a candidate a share of the traffic, follow it, promote it or give it up."""

from __future__ import annotations

import signal
import threading
from argparse import ArgumentParser
from collections.abc import Mapping
from typing import Any, TextIO, cast

from django.core.management.base import BaseCommand
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models_registry import guardian, guardrails, rollouts, statistics, weights
from models_registry.deployments import Deployable
from models_registry.management.refusals import refusals
from models_registry.models import Rollout, RolloutKey, RolloutMode
from models_registry.rollouts import DEFAULT_STEPS, Plan
from models_registry.scopes import readable_scope
from models_registry.versions import find_version
from ops.alerting import watch as alerts
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import InvalidRequest


class Command(BaseCommand):
    help = "Roll a version or weights out to a share of the traffic, with guardrails that roll them back."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        start = actions.add_parser("start", help="give a candidate its first share")
        start.add_argument("candidate", help="name@number of a ranker or embedder, weights/VERSION, or LTR:CONCEPTUAL")
        start.add_argument("--collection", help="slug; without it everywhere")
        start.add_argument("--shadow", action="store_true", help="compute and compare it, serve the stable version")
        start.add_argument("--steps", default=",".join(f"{share:g}" for share in DEFAULT_STEPS), help="shares in %%")
        start.add_argument("--automatic", action="store_true", help="take the steps, and promote, by itself")
        start.add_argument("--step-minutes", type=float, default=60.0, help="least time of an automatic step")
        start.add_argument("--key", choices=RolloutKey.values, default=RolloutKey.REQUEST, help="what stays together")
        start.add_argument("--key-name", default="", help="of the header or cookie")
        start.add_argument(
            "--guardrail", action="append", default=[], metavar="NAME=LIMIT",
            help=f"in place of the default, or NAME=off: {', '.join(guardrails.GUARDRAILS)}",
        )  # fmt: skip
        start.add_argument("--min-samples", type=int, default=guardrails.MIN_SAMPLES, help="before anything is judged")
        start.add_argument("--alpha", type=float, default=guardrails.ALPHA, help="largest rate of false alarms")
        status = actions.add_parser("status", help="what is under way, with live figures")
        status.add_argument("number", type=int, nargs="?", help="only this one")
        status.add_argument("--all", action="store_true", help="those that have ended too")
        for name, help_text in (
            ("step", "give it its next share"),
            ("pause", "take its share away for now"),
            ("resume", "give it its share back"),
            ("promote", "make it the stable version"),
            ("abort", "give it up"),
        ):
            action = actions.add_parser(name, help=help_text)
            action.add_argument("number", type=int)
            action.add_argument("--reason", default="", help="why; kept in the history")
            if name == "step":
                action.add_argument("--to", type=float, metavar="PERCENT", help="this share in place of the next")
        start.add_argument("--reason", default="", help="why; kept in the history")
        actions.add_parser("guard", help="watch the rollouts and the alert rules until stopped; several may")

    def handle(self, *, action: str, **options: Any) -> None:
        self.console = Console(file=cast(TextIO, self.stdout), highlight=False)
        with refusals():
            if action in {"start", "status", "guard"}:
                getattr(self, f"do_{action}")(options)
            else:
                self._change(action, options)

    def do_start(self, options: Mapping[str, Any]) -> None:
        plan = Plan(
            mode=RolloutMode.SHADOW if options["shadow"] else RolloutMode.CANARY,
            key=RolloutKey(options["key"]),
            key_name=options["key_name"],
            steps=_numbers(options["steps"]),
            automatic=options["automatic"],
            step_minutes=options["step_minutes"],
            guardrails=dict(_limit(text) for text in options["guardrail"]),
            min_samples=options["min_samples"],
            alpha=options["alpha"],
        )
        scope = readable_scope(options["collection"], SYSTEM)
        rollout = rollouts.start(_candidate(options["candidate"]), scope, plan, by=SYSTEM, reason=options["reason"])
        self._say(rollout)
        self.stdout.write(f"Follow it: manage.py rollout status {rollout.pk}")

    def do_status(self, options: Mapping[str, Any]) -> None:
        if options["number"] is not None:
            found = [rollouts.find(options["number"])]
        else:
            found = list(rollouts.everything()[:50] if options["all"] else rollouts.underway())
        if not found:
            self.stdout.write("No rollout is under way. `manage.py rollout start` begins one.")
        for rollout in found:
            self._say(rollout)
            if rollout.is_open:
                self._show_figures(rollout)
            elif rollout.outcome:
                self.stdout.write(f"  {rollout.outcome}")

    def do_guard(self, options: Mapping[str, Any]) -> None:
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        alerts.start(stopping)
        guardian.watch(stopping)

    def _change(self, action: str, options: Mapping[str, Any]) -> None:
        more = {"percent": options["to"]} if action == "step" else {}
        change = getattr(rollouts, action)
        self._say(change(options["number"], by=SYSTEM, reason=options["reason"], **more))

    def _say(self, rollout: Rollout) -> None:
        share = f", {rollout.percent:g} % of the traffic" if rollout.state == "running" else ""
        kind = "shadow" if rollout.mode == RolloutMode.SHADOW else "canary"
        self.stdout.write(f"{rollout}: {kind}, {rollout.get_state_display()}{share}")

    def _show_figures(self, rollout: Rollout) -> None:
        try:
            standing = guardian.standing_of(rollout)
        except statistics.StatisticsUnavailableError:
            self.stdout.write("  Redis does not answer, so that there are no figures.")
            return
        table = Table("guardrail", "candidate", "stable", "limit", "samples", "reads")
        for reading in standing.readings:
            values = (_shown(reading.canary), _shown(reading.stable), f"{reading.limit:g}", f"{reading.samples:,}")
            table.add_row(reading.guardrail, *values, escape("breached" if reading.breached else "holds"))
        self.console.print(table)


def _candidate(text: str) -> Deployable:
    kind, _, number = text.partition("/")
    if kind == "weights" and number.isdecimal():
        return weights.find_version(int(number))
    ltr, separator, conceptual = text.partition(":")
    if separator:
        try:
            proposed = weights.propose(float(ltr), float(conceptual))
        except ValueError as error:
            raise InvalidRequest(f"'{text}' is no pair of weights: write LTR:CONCEPTUAL, such as 0.7:0.3.") from error
        return weights.create_version(proposed, by=SYSTEM)
    return find_version(text)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidRequest(f"'{text}' is no list of shares: write them as 5,25,100.") from error


def _limit(text: str) -> tuple[str, Any]:
    name, _, limit = text.partition("=")
    if limit == "off":
        return name, None
    try:
        return name, float(limit)
    except ValueError as error:
        raise InvalidRequest(f"'{text}' is no guardrail: write NAME=LIMIT, such as latency_ratio=1.3.") from error


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
