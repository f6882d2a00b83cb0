"""A web server of the product as `make run` starts it, on the benchmarks' data, and a client that keeps connections."""

from __future__ import annotations

import http.client
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.setup import DATA_DIR
from zenglow_site.supervisor import BACKLOG
from zenglow_site.web_processes import web_processes

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = web_processes(0, share_an_address=True)
"""Web processes as `make run` starts them here."""

START_TIMEOUT_S = 180.0
REQUEST_TIMEOUT_S = 60.0


@contextmanager
def web_server(**variables: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The process and the port of a Daphne that is up and has loaded its models, with ``variables`` of its own."""
    port = free_port()
    with _daphne(port, variables=variables) as up:
        yield up, port


@contextmanager
def web_servers(count: int) -> Iterator[tuple[int, list[int]]]:
    """The port that so many share, as with ``ZENGLOW_WEB_PROCESSES``, and one of each for it alone.

    All have loaded their models.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener, ExitStack() as stack:
        own_ports = [free_port() for _ in range(count)]
        for own_port in own_ports:
            stack.enter_context(_daphne(own_port, listener.fileno(), count))
        yield listener.getsockname()[1], own_ports


def _daphne(
    port: int, listener: int | None = None, processes: int = 1, variables: Mapping[str, str] | None = None
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "bench.server_settings",
        "ZENGLOW_DATA_DIR": os.environ.get("ZENGLOW_DATA_DIR", str(DATA_DIR)),
        "ZENGLOW_PORT": str(port),
        "ZENGLOW_WEB_PROCESSES": str(processes),
        "OPS_LOG_LEVEL": os.environ.get("OPS_LOG_LEVEL", "INFO"),
        **(variables or {}),
    }
    shared = [] if listener is None else ["--fd", str(listener)]
    address = ["-b", "127.0.0.1", "-p", str(port), *shared]
    command = [sys.executable, "-m", "daphne", "--verbosity", "0", "--no-server-name", *address]
    descriptors = () if listener is None else (listener,)
    return serving([*command, "zenglow_site.asgi:application"], port, "/health/ready", environment, descriptors)


@contextmanager
def serving(
    command: Sequence[str], port: int, ready_path: str, environment: dict[str, str], descriptors: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    """A server process from when ``ready_path`` answers 200 until the block ends. It inherits the ``descriptors``."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, pass_fds=tuple(descriptors)
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _is_ready(port, ready_path):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"{command[0]} did not come up:\n{log.read().decode(errors='replace')[-4000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Client:
    """One keep-alive connection. Any other answer than the expected one ends the benchmark."""

    def __init__(self, port: int, key: str | None = None, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self._headers = {"Content-Type": "application/json"} | ({} if key is None else {"X-API-Key": key})
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._connection.connect()
        assert self._connection.sock is not None
        self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes, method: str = "POST", *, expected: int = 200) -> bytes:
        self._connection.request(method, path, body, self._headers)
        response = self._connection.getresponse()
        content = response.read()
        if response.status != expected:
            raise RuntimeError(f"{method} {path} answered {response.status}: {content[:500].decode(errors='replace')}")
        return content

    def post_json(self, path: str, body: object, *, expected: int = 200) -> Any:
        return json.loads(self.post(path, json.dumps(body).encode(), expected=expected))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def time_ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def at_once(
    jobs: Sequence[Callable[[Client], object]], port: int, workers: int, key: str | None = None
) -> tuple[list[float], float, int]:
    """Run the jobs from ``workers`` threads with a connection each.

    Returns each job's milliseconds, the seconds that all took together, and how many failed.
    """
    durations: list[float] = []
    failures: list[Exception] = []
    remaining = iter(jobs)
    lock = threading.Lock()
    ready = threading.Barrier(workers + 1)

    def work() -> None:
        with Client(port, key) as client:
            ready.wait()
            while True:
                with lock:
                    job = next(remaining, None)
                if job is None:
                    return
                started = time.perf_counter()
                try:
                    job(client)
                except Exception as error:
                    failures.append(error)
                else:
                    durations.append((time.perf_counter() - started) * 1000)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    ready.wait()
    started = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed_s = time.perf_counter() - started
    for error in failures[:3]:
        print(f"failed: {error}", file=sys.stderr)
    return durations, elapsed_s, len(failures)


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile."""
    return sorted(values)[max(math.ceil(len(values) * fraction) - 1, 0)]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _is_ready(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
