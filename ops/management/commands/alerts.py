"""``manage.py alerts``: what is open, and the rules behind it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone
from rich.table import Table
from rich.text import Text

from ops import alerts
from ops.alerting import rules
from ops.contracts.measures import measures
from ops.contracts.principal import SYSTEM
from ops.models import AlertEvent, AlertRule
from ops.performance.report import parse_period
from ops.refusals import refusals
from ops.terminal import console

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"


class Command(BaseCommand):
    help = "Show, acknowledge and close alerts; show, silence and try their rules. Times are UTC."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        listed = actions.add_parser("list", help="the alerts that are open")
        listed.add_argument("--all", action="store_true", help="those that are over too, newest first")
        actions.add_parser("rules", help="the rules, what they read last, and what can be watched")
        for name, meaning in (
            ("ack", "say that somebody is at it; it is not told again"),
            ("resolve", "close an alert by hand"),
        ):
            action = actions.add_parser(name, help=meaning)
            action.add_argument("alert", help="its name or number, as `alerts list` shows it")
        silence = actions.add_parser("silence", help="tell nobody of a rule for a while")
        silence.add_argument("rule")
        length = silence.add_mutually_exclusive_group()
        length.add_argument("--for", dest="period", default="1h", help="such as 30m, 2h or 1d (default: %(default)s)")
        length.add_argument("--end", action="store_true", help="end the silence")
        test = actions.add_parser("test", help="replay the past against a rule: when would it have fired?")
        test.add_argument("rule")
        test.add_argument("--since", default="24h", help="such as 1h, 24h or 7d (default: %(default)s)")
        for action in (listed, test):
            action.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, *, action: str, **options: Any) -> None:
        self.console = console(self.stdout)
        with refusals():
            getattr(self, f"do_{action}")(options)

    def do_list(self, options: Mapping[str, Any]) -> None:
        events = AlertEvent.objects.all() if options["all"] else AlertEvent.objects.filter(resolved_at=None)
        if options["json"]:
            fields = ("id", "name", "severity", "message", "opened_at", "acknowledged_by", "resolved_at", "details")
            rows = [{name: getattr(event, name) for name in fields} for event in events[:200]]
            self.stdout.write(json.dumps(rows, indent=2, default=str))
            return
        if not events:
            self.stdout.write("No alert is open.")
            return
        table = _table("no", "severity", "alert", "since", "state", "message")
        for event in events[:200]:
            state = "open"
            if event.resolved_at:
                state = f"over {event.resolved_at:{TIME_FORMAT}}"
            elif event.acknowledged_at:
                state = f"acknowledged by {event.acknowledged_by}"
            table.add_row(
                *(str(event.pk), event.severity, Text(event.name), f"{event.opened_at:{TIME_FORMAT}}"),
                *(state, Text(event.message)),
            )
        self.console.print(table)

    def do_rules(self, options: Mapping[str, Any]) -> None:
        table = _table("rule", "fires when", "phase", "now", "silenced until")
        for rule in AlertRule.objects.select_related("state"):
            measure = measures().get(rule.measure)
            unit = measure.unit if measure else ""
            state = getattr(rule, "state", None)
            phase = "off" if not rule.enabled else "not read yet" if state is None else state.fault or state.phase
            labels = "".join(f" {value}" for value in rule.labels.values())
            table.add_row(
                rule.name,
                Text(
                    f"{rule.measure}{labels} {rule.comparison} {rules.readable(rule.threshold, unit)} over "
                    f"{rule.window_s} s, for {rule.for_s} s"
                ),
                Text(phase),
                rules.readable(state.value, unit) if state else "–",
                f"{rule.silenced_until:{TIME_FORMAT}}" if rule.silenced_until else "",
            )
        self.console.print(table)
        self.stdout.write("What can be watched:")
        for measure in measures().values():
            choose = f" (by {', '.join(measure.labels)})" if measure.labels else ""
            self.stdout.write(f"  {measure.name}{choose}: {measure.help}")

    def do_ack(self, options: Mapping[str, Any]) -> None:
        event = alerts.find_open(options["alert"])
        alerts.acknowledge(event, by=SYSTEM)
        self.stdout.write(f"{event.name} is acknowledged.")

    def do_resolve(self, options: Mapping[str, Any]) -> None:
        event = alerts.find_open(options["alert"])
        alerts.close(event, by=SYSTEM)
        self.stdout.write(f"{event.name} is over.")

    def do_silence(self, options: Mapping[str, Any]) -> None:
        rule = rules.find_rule(options["rule"])
        until = None if options["end"] else timezone.now() + parse_period(options["period"])
        rules.silence(rule, until, by=SYSTEM)
        told = f"silenced until {until:{TIME_FORMAT}}" if until else "told of again"
        self.stdout.write(f"{rule.name} is {told}.")

    def do_test(self, options: Mapping[str, Any]) -> None:
        rule = rules.find_rule(options["rule"])
        found = rules.replay(rule, parse_period(options["since"]), now=timezone.now())
        unit = measures()[rule.measure].unit
        known = [value for _, value in found.readings if value is not None]
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    {
                        "rule": rule.name,
                        "source": found.source,
                        "readings": len(found.readings),
                        "readings_with_a_value": len(known),
                        "fired": [{"since": one.since, "until": one.until, "worst": one.worst} for one in found.fired],
                    },
                    indent=2,
                    default=_iso,
                )
            )
            return
        self.stdout.write(f"{len(found.readings):,} readings, {len(known):,} with a value, from {found.source}.")
        if known:
            low, high = rules.readable(min(known), unit), rules.readable(max(known), unit)
            self.stdout.write(
                f"{rule.measure} went from {low} to {high}; the threshold is {rules.readable(rule.threshold, unit)}."
            )
        if not found.fired:
            self.stdout.write(f"{rule.name} would not have fired.")
            return
        table = _table("fired", "until", "worst")
        for one in found.fired:
            until = f"{one.until:{TIME_FORMAT}}" if one.until else "now"
            table.add_row(f"{one.since:{TIME_FORMAT}}", until, rules.readable(one.worst, unit))
        self.console.print(table)


def _table(*headings: str) -> Table:
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _iso(moment: datetime) -> str:
    return moment.isoformat()
