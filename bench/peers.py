"""ZenGlow beside two peers from the package index, on one collection, machine and embedding model, over HTTP.

txtai serves its default hybrid index by its own API; Haystack its pgvector store, with keyword retrieval and
reciprocal-rank fusion, by Hayhooks. Each peer has an environment of its own below the data folder, made from
``bench/peer_servers/*.txt`` on the first run, and takes as many torch threads as answer faster just now.
All three are up together and asked in turns, query by query: every judged query once, so nobody answers from a cache.
``--write`` writes ``docs/performance/peers.md``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import psutil

from bench.public import SLUG, JudgedText, ensure_indexed, judged_texts, passages
from bench.serving import Client, at_once, free_port, percentile, serving, time_ms, web_server
from bench.setup import DATA_DIR

HERE = Path(__file__).resolve().parent / "peer_servers"
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance" / "peers.md"
ENVIRONMENTS = DATA_DIR / "peers"
TXTAI_INDEX = ENVIRONMENTS / "txtai-index"
DATABASE = "bench_haystack"
DEPTH = 10
CONCURRENCY = 16
BATCHES = 8
WARM_UP = 10
INDEXING_TIMEOUT_S = 1800.0
OURS = "ZenGlow"

# What its console command does; `-m hayhooks` does nothing.
HAYHOOKS = "from hayhooks.cli import hayhooks_cli; hayhooks_cli()"

Ask = Callable[[Client, str], list[str]]
"""The ids of the ten best documents."""


@dataclass(slots=True)
class Measured:
    """What one server did, asked one query at a time and by sixteen clients. Memory is PSS."""

    version: str
    durations_ms: list[float] = field(default_factory=list)
    rankings: dict[str, list[str]] = field(default_factory=dict)
    answers_per_s: list[float] = field(default_factory=list)
    crowd_ms: list[float] = field(default_factory=list)
    failed: int = 0
    memory_bytes: int = 0
    ndcg: float = 0.0


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    version: str
    port: int
    process: subprocess.Popen[bytes]
    ask: Ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=0, help="how many judged queries; 0: all")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of sixteen clients")
    parser.add_argument("--write", action="store_true", help=f"write the results to docs/performance/{PAGE.name}")
    options = parser.parse_args()
    chunks = ensure_indexed()
    from django.core.cache import cache

    from rag.evaluation.measures import means, per_query
    from rag.seeding import packaged_embedder_folder

    model = str(packaged_embedder_folder())
    queries = judged_texts()
    if options.queries:
        queries = {name: queries[name] for name in list(queries)[:: max(len(queries) // options.queries, 1)]}
    corpus = _write_corpus()
    haystack = _haystack_environment(model)
    _once("haystack", corpus, lambda: _index_in_haystack(corpus, haystack))
    txtai = _txtai_environment(model)
    _once("txtai", corpus, lambda: _index_in_txtai(corpus, txtai))
    cache.clear()
    with ExitStack() as stack:
        process, port = stack.enter_context(web_server())
        servers = [
            Server(OURS, "", port, process, _ask_us),
            stack.enter_context(_quicker(lambda threads: _txtai(txtai, threads))),
            stack.enter_context(_quicker(lambda threads: _hayhooks(haystack, threads))),
        ]
        measured = {server.name: Measured(server.version) for server in servers}
        for folder in sorted({judged.folder for judged in queries.values()}):
            of_folder = {query_id: judged for query_id, judged in queries.items() if judged.folder == folder}
            with _ranker_that_never_saw(folder, port):
                _ask_in_turns(servers, measured, of_folder)
        for number in range(options.rounds):
            # Other words, so that ours has not cached the answers.
            texts = [_turned(judged.text, number + 1) for judged in queries.values()]
            texts = texts[:: max(len(texts) // (CONCURRENCY * BATCHES), 1)]
            _ask_at_once(servers, measured, texts)
        for server in servers:
            measured[server.name].memory_bytes = _memory(server.process)
    grades = {query_id: judged.grades for query_id, judged in queries.items()}
    for one in measured.values():
        one.ndcg = means(per_query(one.rankings, grades))["ndcg@10"]
    text = report(measured, chunks, len(queries), options)
    print(text)
    if options.write:
        PAGE.write_text(text, encoding="utf-8")


# --- the servers ------------------------------------------------------------------------------------------------------


def _ask_us(client: Client, text: str) -> list[str]:
    return [result["document_id"] for result in client.post_json("/rag/query2", _body(text))["results"]]


def _body(text: str) -> dict[str, object]:
    return {"query": text, "collection": SLUG, "top_k": DEPTH, "group_by": "document"}


@contextmanager
def _txtai(environment: dict[str, str], threads: int) -> Iterator[Server]:
    python = _environment("txtai")
    port = free_port()
    with serving(_txtai_command(python, port), port, "/count", _bare_environment(threads) | environment) as process:
        yield Server("txtai", _version(python, "txtai"), port, process, _ask_txtai)


def _txtai_command(python: Path, port: int) -> list[str]:
    return [str(python), "-m", "uvicorn", "txtai.api:app", "--port", str(port), "--log-level", "warning"]


def _txtai_environment(model: str) -> dict[str, str]:
    """What txtai reads its default hybrid index from."""
    settings = ENVIRONMENTS / "txtai.yml"
    embeddings = {"path": model, "hybrid": True, "content": True}
    settings.write_text(
        json.dumps({"path": str(TXTAI_INDEX), "writable": True, "embeddings": embeddings}), encoding="utf-8"
    )
    return {"CONFIG": str(settings)}


def _index_in_txtai(corpus: Path, environment: dict[str, str]) -> None:
    """Filled through its own API and saved."""
    python, port = _environment("txtai"), free_port()
    shutil.rmtree(TXTAI_INDEX, ignore_errors=True)
    with serving(_txtai_command(python, port), port, "/count", _bare_environment(1) | environment):
        documents = [json.loads(line) for line in corpus.read_text(encoding="utf-8").splitlines()]
        with Client(port, timeout_s=INDEXING_TIMEOUT_S) as client:
            for start in range(0, len(documents), 500):
                client.post_json("/add", documents[start : start + 500])
            client.post("/index", b"", method="GET")


def _ask_txtai(client: Client, text: str) -> list[str]:
    answer = json.loads(client.post(f"/search?query={quote(text, safe='')}&limit={DEPTH}", b"", method="GET"))
    return [row["id"] for row in answer]


@contextmanager
def _hayhooks(environment: dict[str, str], threads: int) -> Iterator[Server]:
    python = _environment("haystack")
    port = free_port()
    arguments = ["run", "--port", str(port), "--pipelines-dir", str(HERE / "haystack")]
    with serving(
        [str(python), "-c", HAYHOOKS, *arguments], port, "/status/search", environment | _bare_environment(threads)
    ) as process:
        yield Server("Haystack", _version(python, "haystack-ai"), port, process, _ask_haystack)


def _ask_haystack(client: Client, text: str) -> list[str]:
    answer = client.post_json("/search/run", {"query": text, "top_k": DEPTH})
    return [row["id"] for row in answer["result"]]


@contextmanager
def _quicker(start: Callable[[int], AbstractContextManager[Server]]) -> Iterator[Server]:
    """The server with as many torch threads, one or one for each core, as answer faster now."""
    medians: dict[int, float] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        with start(threads) as server, Client(server.port) as client:
            for number in range(WARM_UP):
                server.ask(client, f"warm up {number}")
            times = [
                time_ms(lambda number=number: server.ask(client, f"how many threads {number}")) for number in range(9)
            ]
            medians[threads] = statistics.median(times)
    threads = min(medians, key=lambda count: medians[count])
    print(f"{server.name}: {threads} threads", flush=True)
    with start(threads) as server:
        yield server


def _environment(name: str) -> Path:
    """The Python of a peer's environment, made if its lock has changed since."""
    folder, lock = ENVIRONMENTS / name, HERE / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / "lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != digest:
        print(f"Making the environment of {name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # On its own: beside others pip might prefer a build with CUDA.
        torch = next(line for line in lock.read_text(encoding="ascii").splitlines() if line.startswith("torch=="))
        subprocess.run([*pip, torch], check=True)
        subprocess.run([*pip, "-r", str(lock)], check=True)
        stamp.write_text(digest, encoding="ascii")
    return python


def _bare_environment(threads: int) -> dict[str, str]:
    kept = {name: value for name in ("PATH", "HOME", "LANG") if (value := os.environ.get(name))}
    offline = {"HF_HUB_OFFLINE": "1", "HAYSTACK_TELEMETRY_ENABLED": "False", "TOKENIZERS_PARALLELISM": "false"}
    return kept | offline | {"OMP_NUM_THREADS": str(threads)}


def _haystack_environment(model: str) -> dict[str, str]:
    """A database of its own in our PostgreSQL, and what Haystack reads it from."""
    from django.conf import settings

    from zenglow_site.embedded.stack import EmbeddedStack

    postgres = EmbeddedStack(settings.ZENGLOW_DATA_DIR).postgres
    postgres.ensure_database(DATABASE)
    return {"PG_CONN_STR": postgres.dsn(DATABASE), "PEER_MODEL": model}


def _index_in_haystack(corpus: Path, environment: dict[str, str]) -> None:
    python = _environment("haystack")
    command = [str(python), str(HERE / "haystack_index.py"), str(corpus)]
    subprocess.run(command, env=_bare_environment(1) | environment, check=True)


def _once(name: str, corpus: Path, index: Callable[[], None]) -> None:
    """Index, unless this very corpus was indexed by this very version of a peer: it takes minutes."""
    stamp = ENVIRONMENTS / f"{name}-indexed.sha256"
    digest = hashlib.sha256((HERE / f"{name}.txt").read_bytes() + corpus.read_bytes()).hexdigest()
    if not stamp.is_file() or stamp.read_text(encoding="ascii") != digest:
        print(f"Indexing in {name} …", flush=True)
        index()
        stamp.write_text(digest, encoding="ascii")


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def _write_corpus() -> Path:
    """Every document as one text, title first: what a peer without fields would be given."""
    path = ENVIRONMENTS / "corpus.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for passage in passages():
            text = f"{passage.title}\n{passage.text}" if passage.title else passage.text
            file.write(json.dumps({"id": passage.id, "text": text}) + "\n")
    return path


@contextmanager
def _ranker_that_never_saw(folder: str, port: int) -> Iterator[None]:
    """Zero-shot: while it lasts, the ranker trained without this test collection answers, if there is one."""
    from models_registry import deployments
    from models_registry.models import ModelVersion, Slot
    from ops.contracts.principal import SYSTEM

    version = ModelVersion.objects.filter(model__name=f"ltr-without-{folder}-linear").order_by("-number").first()
    if version is None:
        yield
        return
    deployments.activate(Slot.LTR, version, SLUG, by=SYSTEM, reason="zero-shot beside peers")
    try:
        with Client(port) as client:
            number = 0
            while client.post_json("/rag/query2", _body(f"followed {number}"))["models"]["ltr"] != str(version):
                number += 1
        yield
    finally:
        deployments.deactivate(Slot.LTR, SLUG, by=SYSTEM, reason="measured")


# --- asking -----------------------------------------------------------------------------------------------------------


def _ask_in_turns(servers: Sequence[Server], measured: dict[str, Measured], queries: dict[str, JudgedText]) -> None:
    with ExitStack() as stack:
        clients = {server.name: stack.enter_context(Client(server.port)) for server in servers}
        for server in servers:
            for number in range(WARM_UP):
                server.ask(clients[server.name], f"warm up {number}")
        for number, (query_id, judged) in enumerate(queries.items()):
            turn = number % len(servers)
            for server in [*servers[turn:], *servers[:turn]]:
                found: list[str] = []

                def ask(server: Server = server, text: str = judged.text, found: list[str] = found) -> None:
                    found.extend(server.ask(clients[server.name], text))

                measured[server.name].durations_ms.append(time_ms(ask))
                measured[server.name].rankings[query_id] = list(dict.fromkeys(found))


def _ask_at_once(servers: Sequence[Server], measured: dict[str, Measured], texts: Sequence[str]) -> None:
    for server in servers:
        jobs = [lambda client, text=text, server=server: server.ask(client, text) for text in texts]
        durations_ms, elapsed_s, failed = at_once(jobs, server.port, CONCURRENCY)
        one = measured[server.name]
        one.answers_per_s.append(len(durations_ms) / elapsed_s)
        one.crowd_ms += durations_ms
        one.failed += failed


def _turned(text: str, turn: int) -> str:
    words = text.split()
    return " ".join(words[turn % len(words) :] + words[: turn % len(words)])


def _memory(process: subprocess.Popen[bytes]) -> int:
    """PSS of the server and its children, in bytes, without the database server."""
    root = psutil.Process(process.pid)
    return sum(one.memory_full_info().pss for one in [root, *root.children(recursive=True)])


# --- the report -------------------------------------------------------------------------------------------------------


def report(measured: dict[str, Measured], chunks: int, queries: int, options: argparse.Namespace) -> str:
    ours = measured[OURS]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines = [
        "# Beside peers",
        "",
        f"Written by `python -m bench.peers --write` on {datetime.now(UTC):%Y-%m-%d}: {platform.machine()}, "
        f"{os.cpu_count()} processors, {memory_gib:.0f} GiB, load {os.getloadavg()[2]:.1f}. Read ratios, not "
        "milliseconds.",
        "",
        f"One collection of {chunks:,} passages (all public test collections together), all-MiniLM-L6-v2, {queries} "
        f"judged queries asked in turns over HTTP, each once; then {options.rounds} rounds of {CONCURRENCY} clients. "
        "txtai has its default hybrid index in memory. Haystack has its pgvector store with keyword retrieval and "
        "reciprocal-rank fusion, in our PostgreSQL, served by Hayhooks. ZenGlow has everything on, and answers the "
        "queries of each test collection by a ranker that never saw a judgement of it.",
        "",
        "| | nDCG@10 | p50 ms | p95 ms | answers / s | p95 ms, 16 clients | memory MB | failed |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, one in measured.items():
        lines.append(
            f"| {name} {one.version} | {one.ndcg:.4f} | {statistics.median(one.durations_ms):.1f} | "
            f"{percentile(one.durations_ms, 0.95):.1f} | {statistics.median(one.answers_per_s):.1f} | "
            f"{percentile(one.crowd_ms, 0.95):.0f} | {one.memory_bytes / 1e6:.0f} | {one.failed} |"
        )
    lines += [
        "",
        "Memory is the PSS of the server's processes without the database server.",
        "",
        "| ZenGlow against | nDCG@10 | p50: peer / ours (target 2) | throughput: ours / peer (target 2) |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, one in measured.items():
        if name == OURS:
            continue
        p50 = statistics.median(one.durations_ms) / statistics.median(ours.durations_ms)
        throughput = statistics.median(a / b for a, b in zip(ours.answers_per_s, one.answers_per_s, strict=True))
        lines.append(f"| {name} | {ours.ndcg / one.ndcg - 1:+.1%} | {p50:.2f} | {throughput:.2f} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
