"""How long a report over 10 million queries takes: ``python -m bench.performance_store [ROWS]``.

The rows are made in the server, over seven days, two variants and three cache states. Reports by stage and variant read
the rolled up views; beside them, in turns, the same figures straight from the rows, as they would be without a roll-up.
``--write`` keeps the table in docs/performance/; ``--reuse`` measures rows of a run of the same day, rolled up anew.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = ROOT / "var" / "bench-performance-store"
ROWS = 10_000_000
DAYS = 7
ROUNDS = 5
TARGET_S = 2.0

FILL = """
INSERT INTO query_performance (
    occurred_at, request_id, query_hmac, collection, variant, mode, cache, status, result_count, top_score,
    embed_ms, retrieval_ms, feature_ms, ltr_ms, fusion_ms, pipeline_ms, weights_version, ltr_version, embedder_version)
SELECT %(day)s::timestamptz + place * interval '1 day' / %(rows)s, gen_random_uuid(), repeat('a', 64), 'docs',
       CASE WHEN place %% 20 = 0 THEN 'canary' ELSE 'stable' END, 'pgvector', cache,
       CASE WHEN place %% 500 = 0 THEN 503 ELSE 200 END, 10, 0.9,
       embed, retrieval, 4 * embed / 9, 0.2, 0.1, coalesce(embed, 0) + coalesce(retrieval, 0) + 5,
       3, 'ltr@4', 'minilm@1'
FROM (
    SELECT place, cache,
           CASE WHEN cache <> 'full' THEN exp(random_normal(2.2, 0.4)) END AS embed,
           CASE WHEN cache = 'none' THEN exp(random_normal(2.4, 0.5)) END AS retrieval
    FROM (
        SELECT place, CASE WHEN place %% 10 < 3 THEN 'full' WHEN place %% 10 < 5 THEN 'feature' ELSE 'none' END AS cache
        FROM generate_series(0, %(rows)s - 1) AS place
    ) AS numbered
) AS timed
"""

BARE = """
SELECT stage, variant, count(*), count(*) FILTER (WHERE status >= 500),
       percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY duration_ms)
FROM query_performance
CROSS JOIN LATERAL (VALUES ('embed', embed_ms), ('retrieval', retrieval_ms), ('feature', feature_ms), ('ltr', ltr_ms),
    ('fusion', fusion_ms), ('pipeline', pipeline_ms)) AS timed(stage, duration_ms)
WHERE duration_ms IS NOT NULL AND occurred_at >= %s AND occurred_at < %s
GROUP BY stage, variant
"""


def main(arguments: list[str]) -> int:
    numbers = [int(argument) for argument in arguments if argument.isdigit()]
    rows = numbers[0] if numbers else ROWS
    prepare()
    from ops.performance.report import report, slow

    now = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    lines = fill(now, rows, reuse="--reuse" in arguments)
    asked: dict[str, Callable[[], object]] = {
        "report of 24 h by stage and variant": lambda: report(timedelta(hours=24), now=now),
        "report of 7 days by stage and variant": lambda: report(timedelta(days=7), now=now),
        "report of 30 days by stage and variant": lambda: report(timedelta(days=30), now=now),
        "report of 6 h by stage and variant, by the minute": lambda: report(timedelta(hours=6), now=now),
        "report of 24 h by cache, from the rows": lambda: report(timedelta(hours=24), ["cache"], now=now),
        "the slowest 20 queries of 24 h": lambda: slow(timedelta(hours=24), now=now),
    }
    seconds = {name: [timed(ask) for _ in range(ROUNDS)] for name, ask in asked.items()}
    bare = timed(lambda: execute(BARE, [now - timedelta(hours=24), now]))
    met = median(seconds["report of 24 h by stage and variant"]) < TARGET_S
    lines += ["", "| | median s | slowest s |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {median(taken):.3f} | {max(taken):.3f} |" for name, taken in seconds.items()]
    lines += [f"| 24 h by stage and variant without the roll-up, once | {bare:.3f} | |", ""]
    lines += [f"Target: the report of 24 h in under {TARGET_S:g} s: {'met' if met else 'not met'}."]
    print("\n".join(lines))
    if "--write" in arguments:
        write(lines)
    return int(not met)


def prepare() -> None:
    """An installation with the tables and nothing else."""
    os.environ.setdefault("ZENGLOW_DATA_DIR", str(DATA_DIR))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command

    from zenglow_site.embedded.stack import EmbeddedStack

    if settings.ZENGLOW_EMBEDDED:
        EmbeddedStack(settings.ZENGLOW_DATA_DIR).ensure()
    call_command("migrate", verbosity=0)


def fill(now: datetime, rows: int, *, reuse: bool) -> list[str]:
    """Replace what is stored by ``rows`` queries of the last days, unless it is reused, and roll them up."""
    from ops.performance.partitions import ensure_partitions
    from ops.performance.rollup import roll_up

    first = now - timedelta(days=DAYS)
    execute("TRUNCATE query_performance_rollup, query_performance_late")
    execute("UPDATE query_performance_rolled SET watermark = '-infinity', horizon = '-infinity'")
    ensure_partitions(first.date(), now.date())
    made = ""
    if not reuse:
        execute("TRUNCATE query_performance")
        filled = sum(
            timed(lambda day=day: execute(FILL, {"day": first + timedelta(days=day), "rows": rows // DAYS}))  # type: ignore[misc]
            for day in range(DAYS)
        )
        made = f"Made in {filled:.0f} s. "
    for day in range(DAYS):
        execute(f"VACUUM (ANALYZE) query_performance_p{first + timedelta(days=day):%Y%m%d}")
    rolled = timed(lambda: roll_up(now))
    execute("VACUUM (ANALYZE) query_performance_rollup")
    (table,) = execute("SELECT sum(pg_total_relation_size(relid)) FROM pg_partition_tree('query_performance')")
    (rollup,) = execute("SELECT pg_total_relation_size('query_performance_rollup')")
    (stored,) = execute("SELECT count(*) FROM query_performance")
    return [
        f"{stored:,} queries over {DAYS} days: {float(table) / 1e9:.2f} GB with their indexes; rolled up "
        f"{rollup / 1e6:.0f} MB. {made}Rolled up at once in {rolled:.0f} s."
    ]


def execute(statement: str, parameters: object = None) -> tuple[object, ...]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchone() if cursor.description else ()


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def write(lines: list[str]) -> None:
    load = os.getloadavg()[0]
    page = [
        "# Reports over ten million queries",
        "",
        f"Written by `python -m bench.performance_store --write` on {datetime.now(UTC):%Y-%m-%d}: "
        f"{platform.machine()}, {os.cpu_count()} processors, load {load:.1f} at the end.",
        "",
        *lines,
    ]
    (ROOT / "docs" / "performance" / "performance-store.md").write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
