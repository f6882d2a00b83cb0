"""Child processes for engines, and the threads that talk to them.

    pool = Pool("voice.engines.pocketsphinx_child", size=2)
    pool.submit(job)        # job.serve(child) runs on a thread as soon as one of the children is free
    pool.prepare(chore)     # chore(child), once for each child, when it has nothing else to do

A child is started when it is needed, kept for the next job, and replaced when it ends or goes silent. It ends by itself
when its parent does, because its input ends then.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from voice.engines.contracts import EngineBusyError, EngineCrashedError, EngineError, EngineMissingError
from voice.engines.wire import HEADER, LONGEST, Kind, frame

ROOT = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 60.0
ANSWER_TIMEOUT_S = 20.0
EXIT_TIMEOUT_S = 5.0
ENVIRONMENT = {
    "PATH": os.defpath,
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    # Whatever of a model is not on this machine is missing: nothing is fetched while people wait.
    "HF_HUB_OFFLINE": "1",
}
"""Of a child, and nothing else: it knows no secret of its parent."""
LAST_WORDS = 400
"""Characters of what a child said before it ended that are told."""


class Child:
    """One process of an engine. Used by one thread at a time."""

    def __init__(self, module: str, *arguments: str, answer_timeout_s: float = ANSWER_TIMEOUT_S) -> None:
        self.module = module
        self.answer_timeout_s = answer_timeout_s
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        self._buffer = bytearray()
        try:
            kind, payload = self.receive(START_TIMEOUT_S)
        except EngineError:
            self.end()
            raise
        if kind != Kind.READY:
            self.end()
            raise EngineMissingError(payload.decode(errors="replace"))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Raises `EngineCrashedError`."""
        assert self._process.stdin is not None  # noqa: S101
        data = memoryview(frame(kind, payload))
        try:
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        except (OSError, ValueError) as error:
            raise self._crashed() from error

    def receive(self, timeout_s: float | None = None) -> tuple[bytes, bytes]:
        """The next message. Raises `EngineCrashedError`, also when none comes in time."""
        deadline = time.monotonic() + (self.answer_timeout_s if timeout_s is None else timeout_s)
        while True:
            if len(self._buffer) >= HEADER.size:
                kind, length = HEADER.unpack_from(self._buffer)
                if length > LONGEST:
                    raise EngineCrashedError(f"{self.module} said something that is no message.")
                if len(self._buffer) >= HEADER.size + length:
                    payload = bytes(self._buffer[HEADER.size : HEADER.size + length])
                    del self._buffer[: HEADER.size + length]
                    return kind, payload
            self._read_more(deadline)

    def ask(self, kind: bytes, payload: bytes = b"") -> tuple[bytes, bytes]:
        """Send, and what it answers. An `ERROR` raises `EngineError`."""
        self.send(kind, payload)
        answer, content = self.receive()
        if answer == Kind.ERROR:
            raise EngineError(content.decode(errors="replace"))
        return answer, content

    def end(self) -> None:
        """Kill it, and wait until it is gone, though not for ever: the thread that does so is needed."""
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(EXIT_TIMEOUT_S)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()

    def _read_more(self, deadline: float) -> None:
        assert self._process.stdout is not None  # noqa: S101
        try:
            ready, _, _ = select.select([self._process.stdout], [], [], max(deadline - time.monotonic(), 0.0))
            if not ready:
                raise EngineCrashedError(f"{self.module} answered nothing for too long.")
            data = self._process.stdout.read(1 << 16)
        except (OSError, ValueError) as error:
            raise self._crashed() from error
        if not data:
            raise self._crashed()
        self._buffer += data

    def _crashed(self) -> EngineCrashedError:
        said = ""
        if not self._errors.closed:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()[-LAST_WORDS:]
        return EngineCrashedError(f"{self.module} ended unexpectedly. {said}".strip())


class Job(Protocol):
    """Something for a child to do, with all that is said to it meanwhile."""

    @property
    def may_begin_again(self) -> bool:
        """Whether nobody has noticed anything of it yet that a second attempt would repeat."""

    def serve(self, child: Child) -> None:
        """Do it, on a thread of the pool. Whatever is raised goes to `fail`.

        An `EngineCrashedError` replaces the child, and has the job begun again, once, if it may be.
        """

    def fail(self, error: EngineError) -> None:
        """It can't be done."""


@dataclass(frozen=True, slots=True)
class _Chore:
    """What every child does once, as a job that nobody waits for. ``number``: the how many-th it is."""

    number: int
    run: Callable[[Child], None]

    @property
    def may_begin_again(self) -> bool:
        return True

    def serve(self, child: Child) -> None:
        self.run(child)

    def fail(self, error: EngineError) -> None:
        """Whoever needs it next finds out."""


class Pool:
    """``size`` children of one module, and as many threads. At most ``longest_queue`` jobs wait."""

    def __init__(self, module: str, *arguments: str, size: int = 1, longest_queue: int = 64) -> None:
        self.module = module
        self.arguments = arguments
        self.size = size
        self.longest_queue = longest_queue
        self._jobs: deque[Job] = deque()
        self._chore: _Chore | None = None
        self._changed = threading.Condition()
        self._children: set[Child] = set()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._generation = 0
        self.fault: EngineError | None = None
        """Why no child could be started, the last time that one was needed; ``None`` when it could."""

    def submit(self, job: Job) -> None:
        """Have ``job`` done by the next free child. Raises `EngineBusyError`."""
        with self._changed:
            if len(self._jobs) >= self.longest_queue:
                raise EngineBusyError(f"{len(self._jobs)} calls of {self.module} are waiting already.")
            self._jobs.append(job)
            if self._idle < len(self._jobs) and len(self._threads) < self.size:
                self._add_thread()
            self._changed.notify()

    def prepare(self, chore: Callable[[Child], None]) -> None:
        """Start all children, and have each do ``chore`` when no job waits. One that nobody has begun is replaced."""
        with self._changed:
            self._chore = _Chore(self._chore.number + 1 if self._chore else 1, chore)
            while len(self._threads) < self.size:
                self._add_thread()
            self._changed.notify_all()

    def close(self) -> None:
        """End all children; jobs that run or wait fail."""
        with self._changed:
            self._generation += 1
            waiting, self._jobs = list(self._jobs), deque()
            threads, self._threads, self._chore = list(self._threads), set(), None
            children = list(self._children)
            self._changed.notify_all()
        for job in waiting:
            job.fail(EngineCrashedError(f"{self.module} is being closed."))
        for child in children:
            child._process.kill()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(EXIT_TIMEOUT_S)

    @property
    def waiting(self) -> int:
        """Jobs that wait for a child."""
        return len(self._jobs)

    @property
    def has_room(self) -> bool:
        """Whether a job would be begun at once."""
        with self._changed:
            return not self._jobs and (self._idle > 0 or len(self._threads) < self.size)

    def child_pids(self) -> list[int]:
        with self._changed:
            return [child.pid for child in self._children]

    def _add_thread(self) -> None:
        thread = threading.Thread(target=self._work, args=(self._generation,), name=self.module, daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self, generation: int) -> None:
        child: Child | None = None
        chores_done = 0
        try:
            while (job := self._next(generation, chores_done)) is not None:
                if isinstance(job, _Chore):
                    chores_done = job.number
                try:
                    if child is None or not child.is_running:
                        child = self._replace(child)
                    try:
                        job.serve(child)
                    except EngineCrashedError:
                        if not job.may_begin_again:
                            raise
                        child = self._replace(child)
                        job.serve(child)
                except EngineCrashedError as error:
                    self._drop(child)
                    child = None
                    job.fail(error)
                except EngineError as error:
                    job.fail(error)
                except Exception as error:
                    self._drop(child)
                    child = None
                    job.fail(EngineError(f"{self.module}: {type(error).__name__}: {error}"))
        finally:
            self._drop(child)

    def _next(self, generation: int, chores_done: int) -> Job | None:
        with self._changed:
            self._idle += 1
            try:
                self._changed.wait_for(
                    lambda: (
                        self._jobs
                        or self._generation != generation
                        or (self._chore is not None and self._chore.number > chores_done)
                    )
                )
                if self._generation != generation:
                    return None
                return self._jobs.popleft() if self._jobs else self._chore
            finally:
                self._idle -= 1

    def _replace(self, child: Child | None) -> Child:
        self._drop(child)
        try:
            new = Child(self.module, *self.arguments)
        except EngineError as error:
            self.fault = error
            raise
        self.fault = None
        with self._changed:
            self._children.add(new)
        return new

    def _drop(self, child: Child | None) -> None:
        if child is not None:
            with self._changed:
                self._children.discard(child)
            child.end()
