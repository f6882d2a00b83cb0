"""``manage.py perf``: how fast queries are, and how their record is kept."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone
from rich.filesize import decimal as readable_size
from rich.table import Table
from rich.text import Text

from ops.instrumentation.histogram import RELATIVE_ERROR
from ops.instrumentation.performance import TIMED_STAGES
from ops.performance import layout as layouts
from ops.performance import report as reports
from ops.performance.figures import STAGES_DRAWN, report_figures, slow_figures, sparkline
from ops.performance.layout import Layout
from ops.performance.report import FROM_ROWS, POINTS, ROLLED_UP, TOTAL_STAGE, parse_by, parse_period, stage_split
from ops.performance.rollup import roll_up
from ops.refusals import refusals
from ops.terminal import console
from ops.written_report import written_report

TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
SHORT_TIME_FORMAT = "%d %b %H:%M:%S"
SPARKLINE_CHARACTERS = 26
SPARKLINE_FROM_COLUMNS = 105
"""A narrower terminal has no room for it beside the figures."""


class Command(BaseCommand):
    help = "Report how fast queries were, show the slowest, and look after the record of them. Times are UTC."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        report = actions.add_parser("report", help="counts, errors and percentiles")
        report.add_argument(
            "--by",
            default=",".join(ROLLED_UP),
            metavar="COLUMNS",
            help=f"what to split by: {', '.join((*ROLLED_UP, *FROM_ROWS))}, with commas between (default: %(default)s)",
        )
        report.add_argument("--html", type=Path, metavar="FILE", help="write tables and plots to a file")
        slow = actions.add_parser("slow", help="the slowest queries with what each stage took")
        slow.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
        actions.add_parser("status", help="how the record is kept: layout, size, what is rolled up")
        convert = actions.add_parser("convert", help="move the record to TimescaleDB, or back to plain partitions")
        convert.add_argument("layout", choices=(Layout.HYPERTABLE, Layout.PARTITIONS))
        convert.add_argument("--dry-run", action="store_true", help="only say what would be done")
        for action in (report, slow):
            action.add_argument("--since", default="24h", help="such as 15m, 24h or 7d (default: %(default)s)")
            action.add_argument("--stage", choices=TIMED_STAGES, help="this stage alone")
            action.add_argument("--variant", help="this variant alone")
            action.add_argument("--json", action="store_true", help="as JSON")

    def handle(self, *, action: str, **options: Any) -> None:
        self.console = console(self.stdout)
        with refusals():
            getattr(self, f"do_{action}")(options)

    def do_report(self, options: Mapping[str, Any]) -> None:
        now, since = timezone.now(), parse_period(options["since"])
        found = reports.report(
            since,
            parse_by(options["by"]),
            now=now,
            stage=options["stage"],
            variant=options["variant"],
            points=POINTS if options["html"] else SPARKLINE_CHARACTERS,
        )
        if options["html"]:
            self._write(options["html"], found, options)
        if options["json"]:
            self.stdout.write(json.dumps(found.as_dict(), indent=2))
            return
        period = f"{found.start:{TIME_FORMAT}} to {found.end:{TIME_FORMAT}}"
        if not found.rows:
            self.stdout.write(f"No query was recorded from {period}.")
            return
        table = Table(title=period, title_justify="left", title_style="")
        for name in found.by:
            table.add_column(name, overflow="fold")
        for heading in ("queries", "errors", "p50 ms", "p95 ms", "p99 ms"):
            table.add_column(heading, justify="right")
        is_wide = self.console.width >= SPARKLINE_FROM_COLUMNS
        if is_wide:
            table.add_column("p95 over time", no_wrap=True)
        for row in found.rows:
            figures = row.figures
            table.add_row(
                *(Text(value or "–") for value in row.key),
                f"{figures.n:,}",
                f"{figures.error_rate:.2%}",
                *(_ms(figures.percentile(fraction)) for fraction in (0.5, 0.95, 0.99)),
                *([sparkline(found, row.points)] if is_wide else []),
            )
        self.console.print(table)
        self.stdout.write(f"Percentiles are within {RELATIVE_ERROR:.1%} of the true ones.")

    def do_slow(self, options: Mapping[str, Any]) -> None:
        stage = options["stage"] or TOTAL_STAGE
        rows = reports.slow(
            parse_period(options["since"]),
            now=timezone.now(),
            limit=options["limit"],
            stage=stage,
            variant=options["variant"],
        )
        if options["json"]:
            self.stdout.write(
                json.dumps(
                    [
                        {
                            "request_id": str(row.request_id),
                            "occurred_at": row.occurred_at.isoformat(),
                            "collection": row.collection,
                            "variant": row.variant,
                            "mode": row.mode,
                            "cache": row.cache,
                            "status": row.status,
                            "degraded": row.degraded,
                            f"{stage}_ms": getattr(row, f"{stage}_ms"),
                            "stages_ms": {name: round(value, 3) for name, value in stage_split(row).items()},
                        }
                        for row in rows
                    ],
                    indent=2,
                )
            )
            return
        if not rows:
            self.stdout.write(f"No query of the last {options['since']} has a time for {stage}.")
            return
        table = Table(show_lines=True)
        table.add_column("began", no_wrap=True)
        table.add_column(f"{stage} ms", justify="right", no_wrap=True)
        table.add_column("of which, in ms; where; request", overflow="fold")
        for row in rows:
            split = " · ".join(f"{name} {value:.1f}" for name, value in stage_split(row).items())
            where = f"{row.collection}, {row.variant}, cache {row.cache}, status {row.status}"
            about = Text("\n".join((split, where, str(row.request_id))))
            table.add_row(f"{row.occurred_at:{SHORT_TIME_FORMAT}}", _ms(getattr(row, f"{stage}_ms")), about)
        self.console.print(table)

    def do_status(self, options: Mapping[str, Any]) -> None:
        status = layouts.status()
        table = Table(show_header=False)
        for name, value in (
            ("layout", _LAYOUTS[status.layout]),
            ("queries", f"{status.rows:,}, in {readable_size(status.size_bytes)}"),
            ("oldest", f"{status.oldest:{TIME_FORMAT}}" if status.oldest else "–"),
            ("kept for", f"{settings.OPS_PERFORMANCE_RETENTION_DAYS} days"),
            ("rolled up before", f"{status.rolled_up:{TIME_FORMAT}}" if status.rolled_up else "by the database itself"),
            ("TimescaleDB", _timescale(status.timescale)),
        ):
            table.add_row(name, value)
        self.console.print(table)
        if status.is_converting:
            self.stdout.write(
                f"A conversion was stopped. `manage.py perf convert {_target(status.layout)}` goes on with it."
            )

    def do_convert(self, options: Mapping[str, Any]) -> None:
        plan = layouts.plan(options["layout"])
        if plan.is_done:
            self.stdout.write(f"There is nothing to do: the store has {_LAYOUTS[plan.layout]}.")
            return
        what = f"{plan.moves:,} queries ({readable_size(plan.size_bytes)})"
        if options["dry_run"]:
            verb = "would go on moving" if plan.is_resumed else "would move"
            self.stdout.write(f"From {_LAYOUTS[plan.layout]} to {_LAYOUTS[plan.target]}: {what} {verb}.")
            return
        self.stderr.write(f"Moving {what}. New queries are recorded meanwhile; reports show what has moved.")
        goal = layouts.convert(
            options["layout"], lambda day, rows: self.stderr.write(f"{day:%Y-%m-%d}  {rows:,} queries")
        )
        if not goal.rolls_up_itself:
            roll_up(timezone.now())
        self.stdout.write(f"The store has {_LAYOUTS[goal]} now.")

    def _write(self, path: Path, found: reports.Report, options: Mapping[str, Any]) -> None:
        stage = options["stage"] or TOTAL_STAGE
        slowest = reports.slow(found.end - found.start, now=found.end, stage=stage, variant=options["variant"])
        text = written_report(
            "performance/report.html",
            {
                "figures": report_figures(found),
                "slow": slow_figures(slowest, stage),
                "stage": stage,
                "stages": STAGES_DRAWN,
                "error_percent": f"{100 * RELATIVE_ERROR:.1f}",
            },
        )
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{path} can't be written: {error.strerror}.", returncode=2) from error
        self.stderr.write(f"Wrote {path}")


_LAYOUTS = {
    Layout.PARTITIONS: "native partitions, a day each, and ZenGlow's own roll-up",
    Layout.HYPERTABLE: "a TimescaleDB hypertable, and ZenGlow's own roll-up",
    Layout.CONTINUOUS: "a TimescaleDB hypertable with compression and continuous aggregates",
}


def _target(layout: Layout) -> str:
    return Layout.PARTITIONS if layout is Layout.PARTITIONS else Layout.HYPERTABLE


def _timescale(found: layouts.Timescale) -> str:
    if not found.version:
        return "not on this server"
    if not found.is_loaded:
        return f"{found.version} is on this server, but not in its shared_preload_libraries"
    return f"{found.version}, {found.edition} edition" if found.is_installed else f"{found.version} can be installed"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}"
