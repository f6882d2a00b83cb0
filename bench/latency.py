"""``POST /rag/query2`` over HTTP beside the bare parts that it is made of; ``--write`` writes ``docs/performance.md``.

``--hardened`` measures the same with all that protects a server turned on, for ``docs/performance/hardened.md``.

Uncached: each query is asked once. Beside it a plain script: one ``SentenceTransformer.encode`` (torch, with the
thread count that is best just now) and one bare top-100 query of pgvector; and the same with our ONNX encoder.
Cached: beside it a view that returns the same bytes through the same middleware. Once with the answer in the server's
own memory, as whoever asks the same process again finds it, and once with a server that holds none and asks Redis.
Sixteen at once: beside it the bare encoder, in batches of sixteen. Once with as many web processes as `make run` starts
on this machine, to one of which all the rest is sent, and once with a single one.
The sides take turns, in several rounds: a ratio is the median of those of the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench.hardened import hardened
from bench.public import SLUG, ensure_indexed, judged_queries
from bench.serving import PROCESSES, Client, at_once, percentile, time_ms, web_server, web_servers

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "performance.md"
HARDENED_PAGE = DOCS / "performance" / "hardened.md"
CONCURRENCY = 16
WARM_UP = 20
HITS = 100
BATCHES = 16
WARM_UP_BATCHES = 4
"""Of requests by all clients at once: by then each thread has its connections, as in a server that has been up."""


@dataclass(frozen=True, slots=True)
class Side:
    """Milliseconds of one side in one round."""

    p50_ms: float
    p95_ms: float

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Side:
        return cls(statistics.median(durations_ms), percentile(durations_ms, 0.95))


@dataclass(frozen=True, slots=True)
class Uncached:
    """One round: the server and both plain scripts, and p50 of the server's stages by their names."""

    server: Side
    torch: Side
    onnx: Side
    stages_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Cached:
    """One round: a full cache hit, and the view that returns the same bytes."""

    server: Side
    same_bytes: Side


@dataclass(frozen=True, slots=True)
class Crowd:
    """One round with sixteen requests under way."""

    served: Side
    served_per_s: float
    encoded_per_s: float
    failed: int


@dataclass(frozen=True, slots=True)
class Round:
    uncached: Uncached
    cached: Cached
    cached_in_redis: Cached
    crowd: Crowd
    crowd_of_one_process: Crowd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=60, help="uncached queries of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hardened", action="store_true", help="with all that `bench.hardened` turns on")
    parser.add_argument("--write", action="store_true", help="write the page of these results")
    options = parser.parse_args()
    chunks = ensure_indexed()
    from django.core.cache import cache

    single = WARM_UP + options.rounds * options.queries
    warm_up = 2 * WARM_UP_BATCHES * CONCURRENCY
    texts = distinct_queries(single + 2 * options.rounds * BATCHES * CONCURRENCY + warm_up)
    texts, warming = texts[:-warm_up], texts[-warm_up:]
    parts = BareParts(texts[:WARM_UP])
    rounds = []
    with ExitStack() as stack:
        key = stack.enter_context(hardened()) if options.hardened else None
        port, own_ports = stack.enter_context(web_servers(PROCESSES))
        clients = [stack.enter_context(Client(own_port, key)) for own_port in own_ports]
        _, forgetful_port = stack.enter_context(
            web_server(RAG_RESPONSE_MEMORY_MB="0", ZENGLOW_WEB_PROCESSES=str(PROCESSES))
        )
        forgetful = stack.enter_context(Client(forgetful_port, key))
        _, single_port = stack.enter_context(web_server())
        for warmed_up in [*clients, forgetful, stack.enter_context(Client(single_port, key))]:
            cache.clear()
            for text in texts[:WARM_UP]:
                warmed_up.post_json("/rag/query2", {"query": text, "collection": SLUG})
        for asked_port, crowd in ((port, warming[::2]), (single_port, warming[1::2])):
            sixteen_at_once(asked_port, parts, crowd, key)
        for number in range(options.rounds):
            asked = texts[WARM_UP + number * options.queries :][: options.queries]
            crowds = texts[single + 2 * number * BATCHES * CONCURRENCY :][: 2 * BATCHES * CONCURRENCY]
            rounds.append(
                Round(
                    uncached(clients[0], parts, asked),
                    cached(clients[0], texts[0]),
                    cached(forgetful, texts[0]),
                    sixteen_at_once(port, parts, crowds[::2], key),
                    sixteen_at_once(single_port, parts, crowds[1::2], key),
                )
            )
            print(rounds[-1], flush=True)
    text = report(rounds, chunks, parts.threads, options)
    print(text)
    if options.write:
        (HARDENED_PAGE if options.hardened else PAGE).write_text(text, encoding="utf-8")


def distinct_queries(count: int, seed: int = 0) -> list[str]:
    """As many different texts, of real length and words: the judged queries, then the same with their words turned."""
    queries = judged_queries()
    random.Random(seed).shuffle(queries)
    found = dict.fromkeys(queries)
    turn = 1
    while len(found) < count:
        for query in queries:
            words = query.split()
            found[" ".join(words[turn % len(words) :] + words[: turn % len(words)])] = None
        turn += 1
    return list(found)[:count]


class BareParts:
    """What anybody would pay: an encoder, and a table of ids and vectors with a prepared binary statement."""

    def __init__(self, warm_up: list[str]) -> None:
        # Torch's threads sleep between two calls instead of spinning on a core that is another side's by then.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import psycopg
        import torch
        from django.conf import settings
        from django.db import connection
        from pgvector.psycopg import register_vector
        from sentence_transformers import SentenceTransformer

        from rag.seeding import packaged_embedder_folder
        from rag.spaces import embedder_for

        self.embedder = embedder_for(SLUG)
        self.model = SentenceTransformer(str(packaged_embedder_folder()), device="cpu")
        self.connection: psycopg.Connection[Any] = psycopg.connect(
            **{
                ours: value
                for theirs, ours in {"NAME": "dbname", "USER": "user", "HOST": "host", "PORT": "port"}.items()
                if (value := connection.settings_dict[theirs])
            },
            password=settings.DATABASES["default"].get("PASSWORD") or None,
            autocommit=True,
        )
        register_vector(self.connection)
        self.connection.execute("DROP TABLE IF EXISTS bench_vectors")
        self.connection.execute(
            """CREATE TABLE bench_vectors AS SELECT chunk_id, embedding FROM doc_embeddings
               WHERE collection_id = (SELECT id FROM rag_collection WHERE slug = %s) AND space_id = %s""",
            (SLUG, self.embedder.space.id),
        )
        self.connection.execute("VACUUM ANALYZE bench_vectors")
        self.threads = self._best_threads(torch, warm_up)
        for text in warm_up:
            self.plain(text)
            self.onnx(text)

    def _best_threads(self, torch: Any, texts: list[str]) -> int:
        """Of one and as many as there are cores, what takes torch less time now."""

        medians: dict[int, float] = {}
        for threads in sorted({1, len(os.sched_getaffinity(0))}):
            torch.set_num_threads(threads)
            # Few texts: with more threads than free cores each takes a second.
            medians[threads] = statistics.median(time_ms(lambda text=text: self._encode(text)) for text in texts[:5])
        best = min(medians, key=lambda threads: medians[threads])
        torch.set_num_threads(best)
        return best

    def search(self, vector: np.ndarray) -> list[Any]:
        from pgvector import Vector

        return self.connection.execute(
            "SELECT chunk_id FROM bench_vectors ORDER BY embedding <=> %b LIMIT 100",
            (Vector(vector),),
            prepare=True,
            binary=True,
        ).fetchall()

    def _encode(self, text: str) -> np.ndarray:
        vector: np.ndarray = self.model.encode(text, show_progress_bar=False)
        return vector

    def plain(self, text: str) -> None:
        self.search(self._encode(text))

    def onnx(self, text: str) -> None:
        self.search(self.embedder.embed_query(text))


def uncached(client: Client, parts: BareParts, texts: list[str]) -> Uncached:
    bodies = {text: json.dumps({"query": text, "collection": SLUG}).encode() for text in texts}
    stages: dict[str, list[float]] = {}

    def ask(text: str) -> bytes:
        return client.post("/rag/query2", bodies[text])

    times: dict[str, list[float]] = {"query2": [], "torch": [], "onnx": []}
    bare: dict[str, Callable[[str], object]] = {"torch": parts.plain, "onnx": parts.onnx}
    names = list(times)
    for number, text in enumerate(texts):
        # Each goes first as often as the others: caches of the processor are warm for whoever is second.
        for name in names[number % 3 :] + names[: number % 3]:
            if name in bare:
                times[name].append(time_ms(lambda name=name, text=text: bare[name](text)))
                continue
            answers: list[bytes] = []
            times[name].append(time_ms(lambda text=text, answers=answers: answers.append(ask(text))))
            answer = json.loads(answers[0])
            if answer["cache"] != "none" or answer["degraded"]:
                raise RuntimeError(f"not an uncached, whole answer: {answer['cache']}, {answer['degraded']}")
            for stage, duration_ms in answer["timings"].items():
                stages.setdefault(stage.removesuffix("_ms"), []).append(duration_ms)
    return Uncached(
        *(Side.of(times[name]) for name in names),
        stages_ms={name: statistics.median(durations_ms) for name, durations_ms in stages.items()},
    )


def cached(client: Client, text: str) -> Cached:
    body = json.dumps({"query": text, "collection": SLUG}).encode()
    client.post("/rag/query2", body)
    answer = client.post("/rag/query2", body)
    if json.loads(answer)["cache"] != "full":
        raise RuntimeError("The answer did not come from the cache.")
    client.post("/bench/same-bytes", answer, method="PUT")
    hits, views = [], []
    for _ in range(HITS):
        hits.append(time_ms(lambda: client.post("/rag/query2", body)))
        views.append(time_ms(lambda: client.post("/bench/same-bytes", body)))
    return Cached(Side.of(hits), Side.of(views))


def sixteen_at_once(port: int, parts: BareParts, texts: list[str], key: str | None = None) -> Crowd:
    jobs = [
        lambda client, text=text: client.post_json("/rag/query2", {"query": text, "collection": SLUG}) for text in texts
    ]
    durations_ms, elapsed_s, failed = at_once(jobs, port, CONCURRENCY, key)
    batches = [texts[start : start + CONCURRENCY] for start in range(0, len(texts), CONCURRENCY)]
    bare_ms = sum(time_ms(lambda batch=batch: parts.embedder.embed_documents(batch)) for batch in batches)
    return Crowd(Side.of(durations_ms), len(durations_ms) / elapsed_s, len(texts) / bare_ms * 1000, failed)


def report(rounds: list[Round], chunks: int, threads: int, options: argparse.Namespace) -> str:
    def over_rounds(figure: Callable[[Round], float]) -> float:
        return statistics.median(figure(one) for one in rounds)

    def row(name: str, side: Callable[[Round], Side]) -> str:
        p50, p95 = over_rounds(lambda one: side(one).p50_ms), over_rounds(lambda one: side(one).p95_ms)
        return f"| {name} | {p50:.1f} | {p95:.1f} |"

    def ratio(name: str, figure: Callable[[Round], float], bar: float | None = None, at_least: bool = False) -> str:
        reached = over_rounds(figure)
        each = ", ".join(f"{figure(one):.2f}" for one in rounds)
        if bar is None:
            return f"| {name} | {reached:.2f} | {each} | | |"
        met = reached >= bar if at_least else reached <= bar
        target = f"{'at least' if at_least else 'at most'} {bar:g}"
        return f"| {name} | {reached:.2f} | {each} | {target} | {'met' if met else 'not met'} |"

    hardened = options.hardened
    command = f"python -m bench.latency{' --hardened' if hardened else ''} --write"
    how = " with keys, limits, JSON logs, scrubbing and 1 % of traces" if hardened else ""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        "# Performance with all protection on" if hardened else "# Performance",
        "",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, "
        f"{os.cpu_count()} processors, {memory_gib:.0f} GiB, load {os.getloadavg()[2]:.1f}. Other work ran beside it: "
        "read ratios, not milliseconds.",
        "",
        f"`POST /rag/query2` over HTTP{how}, against {chunks:,} chunks, in {options.rounds} rounds of "
        f"{options.queries} uncached queries, {HITS} cache hits and {BATCHES * CONCURRENCY} queries of {CONCURRENCY} "
        "clients, after as much of each as opens all connections. `make run` starts "
        f"{PROCESSES} web process{'es' if PROCESSES > 1 else ''} here. The sides take turns query by query, the "
        "clients and the bare encoder round by round. Each figure is the median of those of the rounds.",
        "Without all that: [Performance](../performance.md)."
        if hardened
        else "How it grows with the collection: [Growth](performance/growth.md). Beside others: "
        "[Peers](performance/peers.md). With keys, limits and traces: [Protected](performance/hardened.md).",
        "",
        "| | p50 ms | p95 ms |",
        "| --- | ---: | ---: |",
        row("uncached", lambda one: one.uncached.server),
        row(f"plain script, torch ({threads} threads)", lambda one: one.uncached.torch),
        row("plain script, our encoder", lambda one: one.uncached.onnx),
        row("full cache hit, from memory", lambda one: one.cached.server),
        row("full cache hit, from Redis", lambda one: one.cached_in_redis.server),
        row("view with the same bytes and middleware", lambda one: one.cached.same_bytes),
        row(f"{CONCURRENCY} at once", lambda one: one.crowd.served),
        row(f"{CONCURRENCY} at once, one web process", lambda one: one.crowd_of_one_process.served),
        "",
        "A plain script encodes the query and asks pgvector for the nearest 100 of a table of ids and vectors, once.",
        "",
        "| ratio | median | rounds | target | |",
        "| --- | ---: | --- | --- | --- |",
        ratio(
            "uncached p50 / plain script, torch", lambda one: one.uncached.server.p50_ms / one.uncached.torch.p50_ms, 1
        ),
        ratio(
            "uncached p50 / plain script, our encoder",
            lambda one: one.uncached.server.p50_ms / one.uncached.onnx.p50_ms,
            1.8,
        ),
        ratio(
            "full cache hit from memory, p50 / same bytes",
            lambda one: one.cached.server.p50_ms / one.cached.same_bytes.p50_ms,
            1.5,
        ),
        ratio(
            "full cache hit from Redis, p50 / same bytes",
            lambda one: one.cached_in_redis.server.p50_ms / one.cached_in_redis.same_bytes.p50_ms,
            1.5,
        ),
        ratio(
            f"{CONCURRENCY} at once: throughput / bare encoder in batches of {CONCURRENCY}",
            lambda one: one.crowd.served_per_s / one.crowd.encoded_per_s,
            0.8,
            at_least=True,
        ),
        ratio(
            "the same with one web process",
            lambda one: one.crowd_of_one_process.served_per_s / one.crowd_of_one_process.encoded_per_s,
        ),
        ratio(f"{CONCURRENCY} at once: p95 / p50", lambda one: one.crowd.served.p95_ms / one.crowd.served.p50_ms, 3),
        "",
        f"{CONCURRENCY} at once: {over_rounds(lambda one: one.crowd.served_per_s):.1f} answers a second beside "
        f"{over_rounds(lambda one: one.crowd.encoded_per_s):.1f} texts encoded a second; "
        f"{sum(one.crowd.failed + one.crowd_of_one_process.failed for one in rounds)} requests failed.",
        "",
        "## Where an uncached query spends its time",
        "",
        "| stage | p50 ms |",
        "| --- | ---: |",
    ]
    stages = {name: over_rounds(lambda one, name=name: one.uncached.stages_ms[name]) for name in _stages(rounds)}
    lines += [f"| {name} | {duration_ms:.1f} |" for name, duration_ms in stages.items()]
    lines += [
        "",
        "`pipeline` is the whole of a search, without HTTP, the middleware and the encoding of the answer.",
        "",
    ]
    return "\n".join(lines)


def _stages(rounds: list[Round]) -> list[str]:
    """The stages of this pipeline that took time."""
    return [name for name, duration_ms in rounds[0].uncached.stages_ms.items() if duration_ms]


if __name__ == "__main__":
    main()
