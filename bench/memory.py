"""What all processes of a served starter collection need: while indexing, at the peak, and afterwards.

Memory is counted as PSS (proportional set size: a page that n processes share counts 1/n for each), so that the sum
is what the machine really gives. Needs Linux. Without an argument an installation is started for the measurement;
``python -m bench.memory DATA_DIR`` looks at one that runs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.supervisor import MARK

ROOT = Path(__file__).resolve().parent.parent
DATA_DIR = ROOT / "var" / "bench-memory"
TARGET_BYTES = 2.5e9
SAMPLE_INTERVAL_S = 0.5
START_TIMEOUT_S = 600.0
QUERIES = (
    "How are fusion weights rolled back?",
    "what happens when Redis is stopped",
    "BM25 k1 b document length",
    "create an api key with a scope",
    "class InstanceLock",
    "chunk overlap in tokens",
)

ROLES = (
    ("daphne", "web server"),
    ("celery", "worker"),
    ("sandbox_child", "parsing child"),
    ("onnx_export", "export of the embedder (once)"),
    ("manage.py prepare", "prepare"),
    ("manage.py starter", "progress of the first indexing"),
    ("manage.py serve", "supervisor"),
    ("redis-server", "Redis"),
    ("postgres", "PostgreSQL"),
)


@dataclass(slots=True)
class Share:
    """What the processes of one role need together, in bytes. ``rss`` counts shared pages once for each process."""

    processes: int = 0
    rss: int = 0
    pss: int = 0


Sample = dict[str, Share]


def main(arguments: list[str]) -> int:
    if arguments:
        return report("now", sample(Path(arguments[0]).resolve()))
    port = free_port()
    # Only a new installation indexes its starter collection.
    EmbeddedStack(DATA_DIR).stop()
    shutil.rmtree(DATA_DIR, ignore_errors=True)
    server = subprocess.Popen(
        [sys.executable, "manage.py", "serve"],
        cwd=ROOT,
        env=os.environ | {"ZENGLOW_DATA_DIR": str(DATA_DIR), "ZENGLOW_PORT": str(port), "ZENGLOW_HOST": "127.0.0.1"},
        stdout=subprocess.DEVNULL,
    )
    try:
        peak = watch_indexing(server, port)
        for query in QUERIES * 5:
            ask(port, query)
        exceeded = report("at the peak, from the start to the end of the first indexing", peak)
        return exceeded | report("afterwards, having answered queries", sample(DATA_DIR))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)


def watch_indexing(server: subprocess.Popen[bytes], port: int) -> Sample:
    """Wait until the server is up and has indexed its starter collection; the largest sample meanwhile."""
    peak: Sample = {}
    deadline = time.monotonic() + START_TIMEOUT_S
    is_up = False
    while not is_up or any("starter" in " ".join(process.cmdline()) for process in marked(DATA_DIR)):
        if server.poll() is not None or time.monotonic() > deadline:
            sys.exit("The server did not come up or did not finish its first indexing.")
        now = sample(DATA_DIR)
        peak = max(peak, now, key=total)
        is_up = is_up or (answers(port) and "progress of the first indexing" in now)
        time.sleep(SAMPLE_INTERVAL_S)
    return peak


def report(when: str, found: Sample) -> int:
    """Print a table; 1 when the sum is over the target."""
    print(f"\nMemory {when} (MB)\n\n{'':<32}{'processes':>10}{'RSS':>8}{'PSS':>8}")
    for role, share in sorted(found.items(), key=lambda entry: -entry[1].pss):
        print(f"{role:<32}{share.processes:>10}{share.rss / 1e6:>8.0f}{share.pss / 1e6:>8.0f}")
    print(f"{'sum':<32}{sum(share.processes for share in found.values()):>10}{'':>8}{total(found) / 1e6:>8.0f}")
    print(f"target: at most {TARGET_BYTES / 1e6:.0f}")
    return int(total(found) > TARGET_BYTES)


def total(found: Sample) -> int:
    return sum(share.pss for share in found.values())


def sample(data_dir: Path) -> Sample:
    found: Sample = defaultdict(Share)
    for process in family(data_dir):
        try:
            line, memory = " ".join(process.cmdline()) or process.name(), process.memory_full_info()
        except psutil.Error:
            continue  # it has just ended
        share = found[next((role for word, role in ROLES if word in line), "other")]
        share.processes += 1
        share.rss += memory.rss
        share.pss += memory.pss
    return found


def family(data_dir: Path) -> Iterator[psutil.Process]:
    """Every process of an installation: the marked ones with their children, their supervisor, and the stores."""
    found: dict[int, psutil.Process] = {}
    for process in marked(data_dir):
        found[process.pid] = process
        try:
            relatives = [*process.children(recursive=True), process.parent()]
        except psutil.Error:
            continue
        found |= {
            relative.pid: relative
            for relative in relatives
            if relative is not None and (relative.pid in found or is_ours(relative))
        }
    for process in psutil.process_iter(["cwd"]):
        cwd = process.info["cwd"]
        if cwd is not None and Path(cwd).is_relative_to(data_dir):
            found[process.pid] = process
    yield from found.values()


def is_ours(process: psutil.Process) -> bool:
    try:
        line = " ".join(process.cmdline())
    except psutil.Error:
        return False
    return any(word in line for word, _ in ROLES)


def marked(data_dir: Path) -> list[psutil.Process]:
    return [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get(MARK) == str(data_dir)
    ]


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=5):
            return True
    except OSError:
        return False


def ask(port: int, query: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/rag/query2",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
