"""What a limit costs: drawing on two buckets beside a bare round trip to the same Redis, and in memory without it.

The sides take turns. Below that, the same cached answer over HTTP with limits on and off, from a server each.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack

from bench.serving import Client, time_ms, web_server
from bench.setup import SMALL, ensure_small

CALLS = 2000
ROUNDS = 5
REQUESTS = 300
WARM_UP = 20
ALLOWED_MS = 1.0
PLENTY = 1_000_000
BODY = json.dumps({"query": "How are fusion weights rolled back?", "collection": SMALL}).encode()


def main() -> int:
    ensure_small()
    from django_redis import get_redis_connection

    from ops.limits.buckets import Bucket, Limit, LocalBuckets, SharedBuckets

    redis = get_redis_connection("default")
    holders = [Bucket(Limit("key", PLENTY, 1000.0), "bench"), Bucket(Limit("ip", PLENTY, 1000.0), "192.0.2.1")]
    shared, local = SharedBuckets(redis, LocalBuckets()), LocalBuckets()
    sides: dict[str, Callable[[], object]] = {
        "bare GET": lambda: redis.get("bench:nothing"),
        "two buckets": lambda: shared.take(holders, 1),
        "without Redis": lambda: local.take(holders, 1),
    }
    durations: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(ROUNDS):
        for name, side in sides.items():
            durations[name] += [time_ms(side) for _ in range(CALLS // ROUNDS)]
    medians = {name: statistics.median(values) for name, values in durations.items()}
    for name, values in durations.items():
        worst = statistics.quantiles(values, n=100)[98]
        print(f"{name:<16}p50 {medians[name]:.3f} ms   p99 {worst:.3f} ms")
    print(f"two buckets / bare GET: {medians['two buckets'] / medians['bare GET']:.2f}")
    over_http = _cached_p50s()
    added = over_http[1] - over_http[0]
    print(f"cached answer   off {over_http[0]:.2f} ms   on {over_http[1]:.2f} ms   added {added:+.2f} ms")
    met = medians["two buckets"] < ALLOWED_MS
    print(f"under {ALLOWED_MS:g} ms: {'met' if met else 'NOT met'}")
    return 0 if met else 1


def _cached_p50s() -> list[float]:
    """Of a server without limits and one with them, which take turns."""
    with ExitStack() as stack:
        clients = []
        for limits in ("false", "true"):
            _, port = stack.enter_context(web_server(OPS_RATE_LIMITS=limits, OPS_RATE_LIMIT_IP_BURST=str(PLENTY)))
            clients.append(stack.enter_context(Client(port)))
        taken: list[list[float]] = [[], []]
        for number in range(WARM_UP + REQUESTS):
            for client, durations in zip(clients, taken, strict=True):
                duration = time_ms(lambda client=client: client.post("/rag/query2", BODY))
                if number >= WARM_UP:
                    durations.append(duration)
        return [statistics.median(durations) for durations in taken]


if __name__ == "__main__":
    sys.exit(main())
