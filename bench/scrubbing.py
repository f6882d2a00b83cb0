"""What scrubbing costs for each log line, beside writing the line as JSON; and how well it finds what it must.

CPU time of one thread, the median of several rounds. The quality is measured on the labelled set of the tests: the half
that the detector was made with, and the half that it has never seen.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

from ops.logs import scrub_event
from ops.scrub import find, scrub, scrub_also
from tests.ops.scrubbing import development, held_out
from tests.ops.scrubbing.labelled import Case, measure

ROUNDS = 15
CALLS = 300

REQUEST: dict[str, Any] = {
    "event": "request",
    "method": "POST",
    "path": "/rag/query2",
    "route": "/rag/query2",
    "status": 200,
    "duration_ms": 12.31,
    "principal": "key:abcdefghij",
    "variant": "stable",
    "cache": "none",
    "collection": "handbook",
    "query_hmac": "9f" * 32,
    "timings_ms": {"embed": 3.1, "retrieval": 5.2, "feature": 0.8, "ltr": 0.4, "fusion": 0.1, "pipeline": 9.9},
    "request_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "correlation_id": "01890a5d-ac96-774b-bcce-b302099a8057",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "span_id": "00f067aa0ba902b7",
    "level": "info",
    "logger": "zenglow.request",
    "timestamp": "2026-11-26T13:44:48.123456Z",
}
TEXTS = {
    "a short event": "Rows of query_performance wait for the database",
    "a query": "how do I reset the password of my account and rotate an API key?",
    "a statement": "SELECT id, heading FROM rag_chunk WHERE collection_id = %s AND id = ANY(%s) ORDER BY id LIMIT 100",
    "four finds": "mail ada@example.org from 203.0.113.7, card 4111 1111 1111 1111, password=hunter2",
}


def main() -> None:
    written = cost_us(lambda: json.dumps(REQUEST))
    scrubbed = cost_us(lambda: scrub_event(None, "info", dict(REQUEST)))
    print("microseconds of CPU")
    print(f"  the line of a request       {scrubbed:8.1f}   (to write it as JSON: {written:.1f})")
    for name, text in TEXTS.items():
        print(f"  {name:<26}  {cost_us(lambda text=text: scrub(text)):8.1f}   ({len(text)} characters)")
    traceback = "\n".join(f'  File "/srv/app/module_{n}.py", line {n}, in handler' for n in range(60))
    long = cost_us(lambda: scrub(traceback), calls=10)
    print(f"  a traceback of 60 frames    {long:8.1f}   ({len(traceback)} characters)")
    for half in (development, held_out):
        report(half.__name__.rsplit(".", 1)[-1], half.cases(), half.CONFIGURED_FIELDS)


def report(name: str, cases: list[Case], further_fields: tuple[str, ...]) -> None:
    scrub_also(further_fields)
    result = measure(cases, find)
    scrub_also([])
    print(
        f"{name}: {len(cases)} lines, {result.labels.total()} labels, "
        f"recall {result.recall:.4f} (aim 0.98), precision {result.precision:.4f} (aim 0.95)"
    )
    print("  recall by format: " + ", ".join(f"{kind} {result.recall_of(kind):.3f}" for kind in sorted(result.labels)))


def cost_us(work: Callable[[], object], calls: int = CALLS) -> float:
    work()
    rounds = []
    for _ in range(ROUNDS):
        started = time.thread_time()
        for _ in range(calls):
            work()
        rounds.append((time.thread_time() - started) / calls * 1e6)
    return statistics.median(rounds)


if __name__ == "__main__":
    main()
