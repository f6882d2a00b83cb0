"""The whole product as people start it: `manage.py serve` in processes of its own, on data of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.conf import settings

from tests.embedded.support import command_of, name_of, processes_below, temporary_place
from tests.patience import PATIENCE_S
from zenglow_site.embedded.processes import is_alive, wait_until
from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.environment import BASE_DIR
from zenglow_site.supervisor import MARK

POLL_S = 0.05

PREPARE = """
import sys
from pathlib import Path
import django
django.setup()
from django.core.management import call_command
from rag.embedders import register_embedder
from rag.seeding import PACKAGED_EMBEDDER
call_command("migrate", verbosity=0)
register_embedder(PACKAGED_EMBEDDER, Path(sys.argv[1]), "tests")
call_command("prepare", verbosity=0)
# With a collection there, a server does not begin with indexing the project.
call_command("collections", "create", "papers")
"""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)


class Zenglow:
    """`manage.py serve` on one data folder, which may be started and ended many times."""

    def __init__(self, data_dir: Path, **variables: str) -> None:
        self.data_dir = data_dir
        self.stack = EmbeddedStack(data_dir)
        self.port = free_port()
        self.variables = variables
        self.lines: list[str] = []
        self._said = threading.Condition()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    # --- its life ----

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(self.data_dir.parent),
            "ZENGLOW_DATA_DIR": str(self.data_dir),
            "ZENGLOW_PORT": str(self.port),
            # Tests of several processes say so: each loads its models.
            "ZENGLOW_WEB_PROCESSES": "1",
            "OPS_HEALTH_CACHE_S": "0",
            # A busy machine is not a fault: tests of a silent store set time-outs of their own.
            "DATABASE_CONNECT_TIMEOUT_S": "60",
            "OPS_HEALTH_TIMEOUT_S": "30",
            "RAG_INDEX_BATCH_DOCUMENTS": "4",
            "RAG_INDEX_THREADS": "1",
            "VOICE_VOCABULARY": "false",
            **self.variables,
        }

    def launch(self) -> None:
        """Start it and don't wait."""
        self.lines = []
        self._process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=BASE_DIR,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, args=(self._process, self.lines), daemon=True)
        self._reader.start()

    def start(self) -> None:
        """Start it and wait until it says that it is up."""
        self.launch()
        self.wait_for_line("ZenGlow is up")

    def end(self, with_signal: signal.Signals = signal.SIGINT) -> int:
        """Signal the supervisor alone, as a terminal's Ctrl-C does; its exit code."""
        self.process.send_signal(with_signal)
        return self.wait()

    def wait(self) -> int:
        """Its exit code, once it has ended and everything it said was read."""
        assert self._reader is not None
        code = self.process.wait(PATIENCE_S)
        if code >= 0:
            self._reader.join(PATIENCE_S)  # a killed one leaves children that hold its output open
        return code

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None, "not started"
        return self._process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command on the same data."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=BASE_DIR,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )

    def dispose(self) -> None:
        """End whatever of it is still there."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PATIENCE_S)
            self._process.kill()
        for process in self.family():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    # --- what it says ----

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_for_line(self, text: str) -> None:
        def is_said() -> bool:
            return any(text in line for line in self.lines) or self.process.poll() is not None

        with self._said:
            self._said.wait_for(is_said, PATIENCE_S)
        assert any(text in line for line in self.lines), f"never said {text!r}:\n{self.output}\n{self.logs()}"

    def logs(self) -> str:
        """The ends of all its logs."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in self.data_dir.glob("**/*.log")
        )

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with self._said:
                    lines.append(line.rstrip("\n"))
                    self._said.notify_all()
        process.wait()
        with self._said:
            self._said.notify_all()

    # --- its processes ----

    def family(self) -> list[psutil.Process]:
        """Everything that lives on this data folder, the stores and the parsing children included."""
        found = {process.pid: process for process in processes_below(self.data_dir)}
        for process in psutil.process_iter(["environ"]):
            if (process.info["environ"] or {}).get(MARK) == str(self.data_dir):
                found |= {child.pid: child for child in [process, *_descendants(process)]}
        if self._process is not None and self._process.poll() is None:
            found[self._process.pid] = psutil.Process(self._process.pid)
        return [process for process in found.values() if is_alive(process.pid)]

    def part(self, *words: str) -> psutil.Process:
        """The supervisor's own child whose command line holds all the words."""
        children = psutil.Process(self.process.pid).children()
        found = [child for child in children if all(word in " ".join(command_of(child)) for word in words)]
        assert len(found) == 1, (words, found)
        return found[0]

    @property
    def web(self) -> psutil.Process:
        return self.part("daphne")

    @property
    def worker(self) -> psutil.Process:
        return self.part("celery")

    def postgres_family(self) -> list[psutil.Process]:
        return [process for process in processes_below(self.data_dir) if name_of(process) == "postgres"]

    # --- what it answers ----

    def call(self, path: str, body: object = None, **headers: str) -> Answer:
        """A GET, or a POST of ``body`` as JSON. Any status is an answer; a redirect is not followed."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"} | {name.replace("_", "-"): v for name, v in headers.items()},
        )
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=PATIENCE_S) as response:
                return Answer(response.status, dict(response.headers), response.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read().decode())

    def query(self, text: str, **headers: str) -> Answer:
        return self.call("/rag/query2", {"query": text, "collection": "papers"}, **headers)

    def index(self, documents: Mapping[str, str], **headers: str) -> str:
        """Hand documents to the worker; the path of the run."""
        answer = self.call(
            "/rag/documents",
            {
                "collection": "papers",
                "documents": [{"document_id": name, "text": text} for name, text in documents.items()],
            },
            **headers,
        )
        assert answer.status == 202, answer
        return f"/rag/index-runs/{answer.body['id']}"

    def is_in_the_middle_of(self, run: str) -> None:
        """Returns once some of a run's documents are done; the others are not."""
        answer = self.eventually(lambda: self.call(run), lambda answer: answer.body["added"] > 0)
        assert answer.body["state"] == "running"

    def finished(self, run: str, **headers: str) -> Mapping[str, Any]:
        """The record of a run, once it is over."""
        answer = self.eventually(
            lambda: self.call(run, **headers), lambda answer: answer.body.get("state") == "finished"
        )
        record: Mapping[str, Any] = answer.body
        return record

    def eventually(self, ask: Callable[[], Answer], is_it: Callable[[Answer], bool]) -> Answer:
        """Ask until the answer is the one that is waited for. A server that is just away is asked again."""
        deadline = time.monotonic() + PATIENCE_S
        seen: object = None
        while time.monotonic() < deadline:
            try:
                seen = answer = ask()
                if is_it(answer):
                    return answer
            except OSError as error:
                seen = error
            time.sleep(POLL_S)
        raise AssertionError(f"the last answer was {seen}\n{self.output}\n{self.logs()}")


def many_documents(count: int = 24) -> dict[str, str]:
    """Enough work that something can happen in the middle of it."""
    log = "".join(f"Lamp {number} was lit at {number % 12} and burned all night. " for number in range(60))
    return {f"lighthouse-{number}": f"The log of lighthouse {number}. {log}" for number in range(count)}


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **keywords: Any) -> None:
        return None


def _descendants(process: psutil.Process) -> Iterable[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return ()


def all_gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether they have all ended, which some do a moment after what they belonged to."""
    family = list(processes)
    return wait_until(lambda: not any(one.is_running() and is_alive(one.pid) for one in family), PATIENCE_S)


def free_port() -> int:
    """One that nobody uses; the kernel's own choice could be given to an outgoing connection before it is used."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


@pytest.fixture(scope="session")
def prepared_data(exported_embedder: Path) -> Path:
    """A stopped data folder with migrated stores and seeded models, packed: made once and unpacked in a second."""
    folder: Path = settings.ZENGLOW_DATA_DIR
    packed = folder / f"prepared-{_fingerprint()}.tar"
    with (folder / "prepared.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not packed.exists():
            for old in folder.glob("prepared-*.tar"):
                old.unlink()
            _pack(packed, exported_embedder)
    return packed


def _fingerprint() -> str:
    """Changes with what a fresh database and registry are made of."""
    sources = [*BASE_DIR.glob("*/migrations/*.py"), *(BASE_DIR / "rag" / "recipes" / "defaults").iterdir()]
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def _pack(packed: Path, exported_embedder: Path) -> None:
    with temporary_place() as place:
        zenglow = Zenglow(place / "data")
        environment = zenglow.environment | {"DJANGO_SETTINGS_MODULE": "zenglow_site.settings"}
        zenglow.stack.ensure()
        try:
            subprocess.run(
                [sys.executable, "-c", PREPARE, str(exported_embedder)], cwd=BASE_DIR, env=environment, check=True
            )
        finally:
            zenglow.stack.stop()
        draft = packed.with_suffix(".new")
        subprocess.run(["tar", "--numeric-owner", "-cf", str(draft), "-C", str(place), "data"], check=True)
        draft.replace(packed)


@contextmanager
def installations(request: pytest.FixtureRequest) -> Iterator[Callable[..., Zenglow]]:
    """Makes installations, each in a place of its own; ``is_new`` ones have never been started."""
    with ExitStack() as stack:

        def make(*, is_new: bool = False, **variables: str) -> Zenglow:
            place = stack.enter_context(temporary_place())
            if not is_new:
                packed = request.getfixturevalue("prepared_data")
                subprocess.run(["tar", "--numeric-owner", "-xpf", str(packed), "-C", str(place)], check=True)
            zenglow = Zenglow(place / "data", **variables)
            stack.callback(zenglow.dispose)
            return zenglow

        yield make


@pytest.fixture
def make_zenglow(request: pytest.FixtureRequest) -> Iterator[Callable[..., Zenglow]]:
    with installations(request) as make:
        yield make
