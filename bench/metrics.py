"""What `/metrics/basic` costs, which may be asked each second: its figures alone, and over HTTP.

Over HTTP it takes turns, on one connection and through the same middleware, with a view that returns the same bytes, so
that the difference of the medians is what the figures themselves take. The server has just answered queries, and counts
in the files that several processes share, as `manage.py serve` has it.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile

from bench.serving import Client, percentile, time_ms, web_server
from bench.setup import ensure_small

CALLS = 400
WARM_UP = 20
AIM_MS = 1.0


def main() -> int:
    collection = ensure_small()
    with tempfile.TemporaryDirectory() as shared:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
        with web_server() as (_, port), Client(port) as client:
            for number in range(WARM_UP):
                client.post_json("/rag/query2", {"query": f"question {number}", "collection": collection})
            answer = client.post("/metrics/basic", b"", method="GET")
            client.post("/bench/same-bytes", answer, method="PUT")
            sides: dict[str, list[float]] = {"/metrics/basic": [], "the same bytes": []}
            for number in range(WARM_UP + CALLS):
                asked = [time_ms(lambda: client.post("/metrics/basic", b"", method="GET"))]
                asked.append(time_ms(lambda: client.post("/bench/same-bytes", b"")))
                if number >= WARM_UP:
                    for durations_ms, taken in zip(sides.values(), asked, strict=True):
                        durations_ms.append(taken)
    if json.loads(answer)["counters"]["queries"] != WARM_UP:
        raise RuntimeError("The queries were not counted.")
    print(f"milliseconds over HTTP, {CALLS} calls each in turn, {len(answer)} bytes")
    for name, durations_ms in sides.items():
        print(f"  {name:<16} p50 {statistics.median(durations_ms):6.2f}   p95 {percentile(durations_ms, 0.95):6.2f}")
    ours, bare = (statistics.median(durations_ms) for durations_ms in sides.values())
    met = ours - bare < AIM_MS
    print(f"ratio of the medians {ours / bare:.2f}; the figures alone {ours - bare:.2f} ms")
    print(f"under {AIM_MS:g} ms: {'met' if met else 'NOT met'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
