"""Two hundred people at once who ask, most of them patient: answers, memory, descriptors and connections stay flat.

python -m bench.answers_soak [MINUTES] [--people 200] [--think SECONDS]

Each asks the extractive answerer over server-sent events, again and again: all of them together at first, then each
when the answer before has ended, or, with ``--think``, after reading it for up to twice so many seconds. Of five
questions two are heard to their end, one is left in the middle, one's connection breaks and is resumed with exactly
the rest, and one is stopped. A web server of its own, on the benchmarks' data.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from bench.serving import percentile, web_server
from bench.setup import SMALL, ensure_small

SAMPLES = 12
FIRST_WORD = 2
"""The number of its event: what was found comes before."""
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
    """What the server holds. ``writing``: answers; ``tasks``: of its event loop; ``postgres``, ``redis``: connections
    of all clients.
    """

    minute: float
    answers: int
    megabytes: float
    descriptors: int
    threads: int
    postgres: int
    redis: int
    tasks: int
    writing: int

    def __str__(self) -> str:
        return (
            f"{self.minute:>5.1f} min, {self.answers:>6} answers: {self.megabytes:>6.1f} MB, {self.descriptors:>4} "
            f"descriptors, {self.threads:>3} threads, {self.tasks:>4} tasks, {self.postgres:>3} PostgreSQL, "
            f"{self.redis:>3} Redis connections, {self.writing:>3} being written"
        )


@dataclass(slots=True)
class Tally:
    """How questions went, and the seconds until the first event and until the last."""

    ways: Counter[str] = field(default_factory=Counter)
    first_s: list[float] = field(default_factory=list)
    whole_s: list[float] = field(default_factory=list)

    def waits(self) -> str:
        """Of the questions since the last time; forgets them."""
        said = [
            f"{name} {percentile(values, 0.5):.1f} s (p95 {percentile(values, 0.95):.1f})"
            for name, values in (("first word", self.first_s), ("whole answer", self.whole_s))
            if values
        ]
        self.first_s, self.whole_s = [], []
        return ", ".join(said)


async def events(response: httpx.Response) -> AsyncGenerator[Event, None]:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield int(fields["id"]), fields["event"], json.loads(fields["data"])
            fields = {}


async def ask(http: httpx.AsyncClient, way: int, tally: Tally) -> str:
    """One question; how it went."""
    body = {"query": random.choice(QUESTIONS), "collection": SMALL, "agent": "extractive", "stream": True}
    heard: list[Event] = []
    asked_at = time.monotonic()
    async with http.stream("POST", "/rag/query", json=body) as response:
        if response.status_code != httpx.codes.OK:
            return f"refused ({response.status_code})"
        async with aclosing(events(response)) as told:
            async for event in told:
                heard.append(event)
                if len(heard) == FIRST_WORD:
                    tally.first_s.append(time.monotonic() - asked_at)
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
    tally.whole_s.append(time.monotonic() - asked_at)
    text = "".join(data["text"] for _, name, data in heard if name == "token")
    if text != heard[-1][2]["text"]:
        return "WORDS LOST"
    return {3: "resumed", 4: "stopped"}.get(way, "answered")


async def person(http: httpx.AsyncClient, number: int, until: float, think_s: float, tally: Tally) -> None:
    """Asks until the time is over."""
    asked = number
    while time.monotonic() < until:
        try:
            tally.ways[await ask(http, asked % 5, tally)] += 1
        except (httpx.HTTPError, OSError) as error:
            tally.ways[f"failed ({type(error).__name__})"] += 1
        asked += 1
        await asyncio.sleep(min(random.uniform(0, 2 * think_s), max(until - time.monotonic(), 0)))


def read(process: psutil.Process, port: int, minute: float, answers: int) -> Reading:
    from django.db import connection
    from django_redis import get_redis_connection

    at = f"http://127.0.0.1:{port}"
    metrics = httpx.get(f"{at}/metrics", timeout=PATIENCE_S).text
    tasks = int(httpx.get(f"{at}/bench/tasks", timeout=PATIENCE_S).text)
    lines = [line for line in metrics.splitlines() if line.startswith("zenglow_answers_writing")]
    writing = int(sum(float(line.split()[-1]) for line in lines))
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
        (postgres,) = cursor.fetchone()
    redis = get_redis_connection("default").info("clients")["connected_clients"]
    with process.oneshot():
        held = (process.memory_info().rss / 1e6, process.num_fds(), process.num_threads())
    return Reading(minute, answers, *held, postgres, redis, tasks, writing)


async def soak(
    process: psutil.Process, port: int, minutes: float, people: int, think_s: float
) -> tuple[list[Reading], Tally]:
    tally = Tally()
    started = time.monotonic()

    async def reading() -> Reading:
        minute = (time.monotonic() - started) / 60
        return await asyncio.to_thread(read, process, port, minute, tally.ways.total())

    readings = [await reading()]
    print(f"before: {readings[0]}", flush=True)
    until = started + minutes * 60
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=people)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S, limits=limits) as http:
        crowd = [asyncio.create_task(person(http, number, until, think_s, tally)) for number in range(people)]
        for sample in range(1, SAMPLES + 1):
            await asyncio.sleep(max(started + minutes * 60 * sample / SAMPLES - time.monotonic(), 0))
            readings.append(await reading())
            print(f"{readings[-1]}; {tally.waits()}", flush=True)
        await asyncio.gather(*crowd)
    await asyncio.sleep(SETTLED_S)
    readings.append(await reading())
    print(f"after: {readings[-1]}", flush=True)
    return readings, tally


def main(minutes: float, people: int, think_s: float) -> int:
    os.environ["OPS_RATE_LIMITS"] = "false"
    ensure_small()
    with web_server() as (server, port):
        readings, tally = asyncio.run(soak(psutil.Process(server.pid), port, minutes, people, think_s))
    print(", ".join(f"{count} {how}" for how, count in tally.ways.most_common()))
    before, *during, after = readings
    # The first third is warm-up: caches fill, threads start.
    early, late = during[len(during) // 3], during[-1]
    growth_mb = late.megabytes - early.megabytes
    lost = sum(count for how, count in tally.ways.items() if "LOST" in how)
    failed = sum(count for how, count in tally.ways.items() if how.startswith(("failed", "refused", "not ", "ended")))
    is_flat = growth_mb < ALLOWED_GROWTH_MB and after.writing == 0 and not lost and not failed
    print(
        f"{late.answers / late.minute / 60:.1f} answers a second; since a third of the time {growth_mb:+.1f} MB, "
        f"{late.threads - early.threads:+d} threads; afterwards {after.writing} answers being written, "
        f"{after.tasks - before.tasks:+d} tasks, {after.descriptors - before.descriptors:+d} descriptors, "
        f"{after.redis - before.redis:+d} Redis connections; {failed} failed, {lost} with words lost: "
        f"{'flat' if is_flat else 'NOT flat'}"
    )
    return 0 if is_flat else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.answers_soak")
    parser.add_argument("minutes", type=float, nargs="?", default=5.0)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--think", type=float, default=0.0, metavar="SECONDS", help="Between an answer and a question.")
    given = parser.parse_args()
    sys.exit(main(given.minutes, given.people, given.think))
