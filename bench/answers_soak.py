"""Two hundred people at once who ask, most of them patient: answers, memory, descriptors and connections stay flat.

python -m bench.answers_soak MINUTES        (5 by default)

Each asks the extractive answerer over server-sent events, again and again. Of five, two hear the answer to its end,
one leaves in the middle, one's connection breaks and is resumed with exactly the rest, and one says stop. A web server
of its own, on the benchmarks' data.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from bench.serving import web_server
from bench.setup import SMALL, ensure_small

AT_ONCE = 200
SAMPLES = 12
HEARD_BEFORE_LEAVING = 3
PATIENCE_S = 120.0
SETTLED_S = 15.0
"""After the last question: nobody's answers are stopped after ten seconds, and are then forgotten."""
ALLOWED_GROWTH_MB = 40.0

QUESTIONS = (
    "How often was lighthouse 7 lit?",
    "Who wrote down that a lighthouse was lit 21 times?",
    "What did the keeper of lighthouse 12 do?",
    "Who won the chess championship of 1972?",
)

Event = tuple[int, str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server holds. ``writing``: answers; ``postgres`` and ``redis``: connections of all clients."""

    answers: int
    megabytes: float
    descriptors: int
    threads: int
    postgres: int
    redis: int
    writing: int

    def __str__(self) -> str:
        return (
            f"{self.answers:>7} answers: {self.megabytes:>7.1f} MB, {self.descriptors:>4} descriptors, "
            f"{self.threads:>3} threads, {self.postgres:>3} PostgreSQL, {self.redis:>4} Redis connections, "
            f"{self.writing:>3} being written"
        )


async def events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


async def ask(http: httpx.AsyncClient, way: int) -> str:
    """One question; how it went."""
    body = {"query": random.choice(QUESTIONS), "collection": SMALL, "agent": "extractive", "stream": True}
    heard: list[Event] = []
    async with http.stream("POST", "/rag/query", json=body) as response:
        if response.status_code != httpx.codes.OK:
            return f"refused ({response.status_code})"
        async with aclosing(events(response)) as told:
            async for event in told:
                heard.append(event)
                if len(heard) < HEARD_BEFORE_LEAVING:
                    continue
                if way == 4 and len(heard) == HEARD_BEFORE_LEAVING:
                    await http.delete(f"/rag/answers/{heard[0][2]['request_id']}")
                if way in {2, 3}:
                    break
    if way == 2:
        return "left"
    if way == 3:
        request_id, last = heard[0][2]["request_id"], heard[-1][0]
        headers = {"Last-Event-ID": str(last)}
        async with http.stream("GET", f"/rag/answers/{request_id}/events", headers=headers) as response:
            if response.status_code != httpx.codes.OK:
                return f"not resumed ({response.status_code})"
            heard += [event async for event in events(response)]
    if [number for number, _, _ in heard] != list(range(1, len(heard) + 1)):
        return "EVENTS LOST"
    if heard[-1][1] != "done":
        return f"ended with {heard[-1][1]}"
    text = "".join(data["text"] for _, name, data in heard if name == "token")
    if text != heard[-1][2]["text"]:
        return "WORDS LOST"
    return {3: "resumed", 4: "stopped"}.get(way, "answered")


async def person(http: httpx.AsyncClient, number: int, until: float, tally: Counter[str]) -> None:
    """Asks until the time is over."""
    asked = number
    while time.monotonic() < until:
        try:
            tally[await ask(http, asked % 5)] += 1
        except (httpx.HTTPError, OSError) as error:
            tally[f"failed ({type(error).__name__})"] += 1
        asked += 1


def read(process: psutil.Process, port: int, answers: int) -> Reading:
    from django.db import connection
    from django_redis import get_redis_connection

    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S).text
    writing = [line for line in metrics.splitlines() if line.startswith("zenglow_answers_writing")]
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        (postgres,) = cursor.fetchone()
    redis = get_redis_connection("default").info("clients")["connected_clients"]
    with process.oneshot():
        held = (process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())
    return Reading(answers, *held, postgres, redis, int(sum(float(line.split()[-1]) for line in writing)))


async def soak(process: psutil.Process, port: int, minutes: float) -> tuple[list[Reading], Counter[str]]:
    tally: Counter[str] = Counter()
    readings = [await asyncio.to_thread(read, process, port, 0)]
    print(f"before: {readings[0]}", flush=True)
    until = time.monotonic() + minutes * 60
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=AT_ONCE)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, limits=limits) as http:
        people = [asyncio.create_task(person(http, number, until, tally)) for number in range(AT_ONCE)]
        for _ in range(SAMPLES):
            await asyncio.sleep(minutes * 60 / SAMPLES)
            readings.append(await asyncio.to_thread(read, process, port, tally.total()))
            print(readings[-1], flush=True)
        await asyncio.gather(*people)
    await asyncio.sleep(SETTLED_S)
    readings.append(await asyncio.to_thread(read, process, port, tally.total()))
    print(f"after: {readings[-1]}", flush=True)
    return readings, tally


def main(minutes: float) -> int:
    os.environ["OPS_RATE_LIMITS"] = "false"
    ensure_small()
    started = time.monotonic()
    with web_server() as (server, port):
        readings, tally = asyncio.run(soak(psutil.Process(server.pid), port, minutes))
    seconds = time.monotonic() - started
    print(", ".join(f"{count} {how}" for how, count in tally.most_common()))
    before, *during, after = readings
    # The first third is warm-up: caches fill, threads start.
    early, late = during[len(during) // 3], during[-1]
    growth_mb = late.megabytes - early.megabytes
    left = (after.writing, after.descriptors - before.descriptors, after.redis - before.redis)
    lost = sum(count for how, count in tally.items() if "LOST" in how)
    is_flat = growth_mb < ALLOWED_GROWTH_MB and after.writing == 0 and not lost
    print(
        f"{tally.total() / seconds:.1f} answers a second; since a third of the time {growth_mb:+.1f} MB, "
        f"{late.threads - early.threads:+d} threads; afterwards {left[0]} answers being written, {left[1]:+d} "
        f"descriptors, {left[2]:+d} Redis connections, {lost} with words lost: {'flat' if is_flat else 'NOT flat'}"
    )
    return 0 if is_flat else 1


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if sys.argv[1:] else 5))
