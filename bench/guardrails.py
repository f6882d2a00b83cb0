"""How soon a bad candidate is rolled back: a web server and a guardian as `make run` starts them, real queries, clicks.

People click on what the stable version answers, and on nothing that the candidate does. After every click the benchmark
reads the guardrail itself from the same numbers, so it knows the sample that makes the test reject. The delay is from
the moment that this click was sent to the database's time of the rollback; the second figure is until the last answer
by the candidate.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bench.serving import ROOT, Client, serving, web_server
from bench.setup import prepare

ROUNDS = 5
ALLOWED_S = 10.0
ANSWERS_OF_EACH = 150
"""More than the guardrail's least number of samples."""
FOLLOWED_S = 1.5
PATIENCE_S = 60.0
COLLECTION = "bench-guardrails"
TEXTS = [f"Lamp {number} of the lighthouse was lit at dusk and burned all night." for number in range(20)]


@dataclass(frozen=True, slots=True)
class Round:
    clicks: int
    delay_s: float
    served_s: float
    outcome: str


def main() -> int:
    prepare()
    _fill()
    guardian = [sys.executable, "manage.py", "rollout", "guard"]
    with web_server() as (_, port), serving(guardian, port, "/health/live", dict(os.environ)):
        rounds = []
        for number in range(1, ROUNDS + 1):
            one = _round(port)
            rounds.append(one)
            print(
                f"round {number}: rejected at click {one.clicks} of {ANSWERS_OF_EACH}+ stable answers, "
                f"rolled back after {one.delay_s:.2f} s, last candidate's answer after {one.served_s:.2f} s",
                flush=True,
            )
    print(rounds[0].outcome)
    delays = [one.delay_s for one in rounds]
    longest = max(max(one.delay_s, one.served_s) for one in rounds)
    print(f"delay: median {statistics.median(delays):.2f} s, longest {max(delays):.2f} s")
    met = longest < ALLOWED_S
    print(f"longest / {ALLOWED_S:g} s: {longest / ALLOWED_S:.2f}: {'met' if met else 'NOT met'}")
    return 0 if met else 1


def _fill() -> None:
    from ops.contracts.principal import SYSTEM
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    collection, is_new = Collection.objects.get_or_create(slug=COLLECTION)
    if is_new:
        run = start_run(collection, [Offer(f"lamp-{n}", text) for n, text in enumerate(TEXTS)], SYSTEM, origin="bench")
        while process_batch(run.pk):
            pass


def _round(port: int) -> Round:
    from models_registry import guardrails, rollouts, weights
    from models_registry.rollouts import Plan
    from ops.contracts.principal import SYSTEM

    only_clicks = {name: None for name in guardrails.FOR_CANARY if name != "click_rate"}
    plan = Plan(steps=(50,), guardrails=only_clicks)
    candidate = weights.create_version(weights.propose(0.3, 0.7), by=SYSTEM)
    rollout = rollouts.start(candidate, COLLECTION, plan, by=SYSTEM, reason="benchmark")
    tallies: dict[str, Counter[str]] = {"canary": Counter(), "stable": Counter()}
    answered: list[Any] = []
    with Client(port) as client:
        time.sleep(FOLLOWED_S)  # an answer of before the server knows of the rollout counts for nobody
        while min(tally["answers"] for tally in tallies.values()) < ANSWERS_OF_EACH:
            answered.append(_query(client, len(answered)))
            tallies[answered[-1]["variant"]]["answers"] += 1
        rejected_at, clicks = _click(client, answered, tallies, rollout)
        last_candidate = rejected_at
        deadline = time.monotonic() + PATIENCE_S
        while rollouts.find(rollout.pk).is_open and time.monotonic() < deadline:
            last_candidate = max(last_candidate, _last_candidate(client, len(answered)))
        ended = rollouts.find(rollout.pk)
        if ended.ended_at is None:
            sys.exit(f"{rollout} was never rolled back")
        for _ in range(200):
            last_candidate = max(last_candidate, _last_candidate(client, len(answered)))
    return Round(clicks, ended.ended_at.timestamp() - rejected_at, last_candidate - rejected_at, ended.outcome)


def _click(client: Client, answered: list[Any], tallies: dict[str, Counter[str]], rollout: Any) -> tuple[float, int]:
    """Click on stable answers until the guardrail rejects: when the click that made it do so was sent, and how many."""
    from models_registry import guardrails

    for answer in (one for one in answered if one["variant"] == "stable"):
        sent_at = time.time()
        chunk_id = answer["results"][0]["chunk_id"]
        click = {"request_id": answer["request_id"], "chunk_id": chunk_id, "kind": "click"}
        client.post_json("/rag/feedback", click, expected=201)
        tallies["stable"]["clicked"] += 1
        readings = guardrails.read(
            tallies["canary"],
            tallies["stable"],
            rollout.guardrails,
            min_samples=rollout.min_samples,
            alpha=rollout.alpha / len(rollout.steps),
        )
        if any(reading.breached for reading in readings):
            return sent_at, tallies["stable"]["clicked"]
    sys.exit("the guardrail did not reject")


def _query(client: Client, number: int) -> Any:
    return client.post_json("/rag/query2", {"query": TEXTS[number % len(TEXTS)], "collection": COLLECTION})


def _last_candidate(client: Client, number: int) -> float:
    """When the candidate answered, or 0."""
    return time.time() if _query(client, number)["variant"] == "canary" else 0.0


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
