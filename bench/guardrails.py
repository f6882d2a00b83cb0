"""How soon a bad candidate is rolled back: a web server and a guardian as `make run` starts them, real queries, clicks.

People click on every second answer of the stable version, and on one in ten of the candidate's. After every sample the
benchmark reads the guardrail itself from the same numbers, so it knows the one that makes the test reject. The delay is
from the moment that this sample was sent to the database's time of the rollback; the second figure is until the last
answer by the candidate. People go on searching and clicking throughout.
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import Any

from bench.serving import ROOT, Client, serving, web_server
from bench.setup import prepare

ROUNDS = 5
ALLOWED_S = 10.0
CLICKED = {"stable": 0.5, "canary": 0.1}
FOLLOWED_S = 1.5
PATIENCE_S = 120.0
COLLECTION = "bench-guardrails"
TEXTS = [f"Lamp {number} of the lighthouse was lit at dusk and burned all night." for number in range(20)]


@dataclass(frozen=True, slots=True)
class Round:
    samples: Counter[str]
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
                f"round {number}: rejected with {one.samples['canary']} answers of the candidate and "
                f"{one.samples['stable']} of the stable version, rolled back after {one.delay_s:.2f} s, "
                f"last answer of the candidate after {one.served_s:.2f} s",
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
    from models_registry import rollouts
    from ops.contracts.principal import SYSTEM
    from rag.ingest.plan import Offer
    from rag.ingest.service import process_batch, start_run
    from rag.models import Collection

    collection, is_new = Collection.objects.get_or_create(slug=COLLECTION)
    if is_new:
        run = start_run(collection, [Offer(f"lamp-{n}", text) for n, text in enumerate(TEXTS)], SYSTEM, origin="bench")
        while process_batch(run.pk):
            pass
    for left in rollouts.underway().filter(scope=COLLECTION):
        rollouts.abort(left.pk, by=SYSTEM, reason="left by a benchmark that was interrupted")


def _round(port: int) -> Round:
    from models_registry import guardrails, rollouts, weights
    from models_registry.rollouts import Plan
    from ops.contracts.principal import SYSTEM

    only_clicks = {name: None for name in guardrails.FOR_CANARY if name != "click_rate"}
    plan = Plan(steps=(50,), guardrails=only_clicks)
    candidate = weights.create_version(weights.propose(0.3, 0.7), by=SYSTEM)
    rollout = rollouts.start(candidate, COLLECTION, plan, by=SYSTEM, reason="benchmark")
    time.sleep(FOLLOWED_S)  # an answer of before the server knows of the rollout counts for nobody
    tallies: dict[str, Counter[str]] = {"canary": Counter(), "stable": Counter()}
    chance = random.Random(rollout.pk)

    def is_rejected() -> bool:
        alpha = rollout.alpha / len(rollout.steps)
        read = guardrails.read(
            tallies["canary"], tallies["stable"], rollout.guardrails, min_samples=rollout.min_samples, alpha=alpha
        )
        return any(reading.breached for reading in read)

    rejected_at, last_candidate, samples = 0.0, 0.0, Counter[str]()
    deadline = time.monotonic() + PATIENCE_S
    with Client(port) as client:
        for number in count():
            sent_at = time.time()
            answer = _query(client, number)
            variant = answer["variant"]
            tallies[variant]["answers"] += 1
            if variant == "canary":
                last_candidate = time.time()
            if not rejected_at and is_rejected():
                rejected_at = sent_at
            if chance.random() < CLICKED[variant]:
                sent_at = time.time()
                _click(client, answer)
                tallies[variant]["clicked"] += 1
                if not rejected_at and is_rejected():
                    rejected_at = sent_at
            if rejected_at and not samples:
                samples.update({side: tally["answers"] for side, tally in tallies.items()})
            if time.monotonic() > deadline:
                sys.exit(f"{rollout} was never rolled back")
            # A look at the row now and then; what is asked for a second after it ended shows who still answered.
            ended = rollouts.find(rollout.pk) if number % 20 == 0 else rollout
            if ended.ended_at is not None and time.time() - ended.ended_at.timestamp() > FOLLOWED_S:
                break
    if not rejected_at or ended.ended_at is None:
        sys.exit(f"{rollout} was rolled back before the test rejected: {ended.outcome}")
    return Round(samples, ended.ended_at.timestamp() - rejected_at, last_candidate - rejected_at, ended.outcome)


def _query(client: Client, number: int) -> Any:
    return client.post_json("/rag/query2", {"query": TEXTS[number % len(TEXTS)], "collection": COLLECTION})


def _click(client: Client, answer: Any) -> None:
    chunk_id = answer["results"][0]["chunk_id"]
    click = {"request_id": answer["request_id"], "chunk_id": chunk_id, "kind": "click"}
    client.post_json("/rag/feedback", click, expected=201)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
