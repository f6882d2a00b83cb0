"""Parses files in child processes, so that a hostile one costs its owner an error message and nobody else anything.

    documents = parse_bytes(Path("report.docx"), "report.docx")

Children are plain subprocesses (Celery's workers are daemonic and may have no `multiprocessing` children), started
with an empty environment, reused for many files, and replaced after a fault. What bounds them is in
`ParseLimits` and `rag.ingest.sandbox_child`. Threads may share a `Sandbox`; a forked process starts its own children.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from rag.ingest.types import (
    IngestError,
    JsonlFields,
    ParsedDocument,
    ParseError,
    ParseLimitError,
    ParseLimits,
    ParseRequest,
)
from rag.ingest.wire import (
    ReplyTooLargeError,
    decode_documents,
    error_of,
    frame,
    read_frame,
    request_header,
)

_CHILD_SCRIPT = Path(__file__).with_name("sandbox_child.py")
_DEFAULT_TARGET = "rag.ingest.parsers:parse"
_START_TIMEOUT_S = 60.0
_EXIT_TIMEOUT_S = 5.0
_RECEIVE_BYTES = 1 << 20
# JSON escapes control characters to six bytes, but those are gone by then; UTF-8 has four at most. Blocks come on top.
_REPLY_BYTES_PER_CHARACTER = 8
_REPLY_BASE_BYTES = 64 << 20

_TIMER_SIGNALS = {signal.SIGPROF, signal.SIGALRM, signal.SIGXCPU}


class SandboxError(RuntimeError):
    """A parsing process cannot be started: a fault of the installation, not of the file."""


class Sandbox:
    """Up to `max_children` parsing processes, started when needed and kept for the next file.

    `target` names the function they call, `MODULE:FUNCTION` with `ParseRequest -> list[ParsedDocument]`, looked up in
    `search_path` and the project.
    """

    def __init__(
        self, target: str = _DEFAULT_TARGET, *, search_path: Sequence[Path] = (), max_children: int = 2
    ) -> None:
        self._target = target
        self._search_path = tuple(search_path)
        self._max_children = max_children
        self._reset()
        _live_sandboxes.add(self)

    def _reset(self) -> None:
        self._slots = threading.BoundedSemaphore(self._max_children)
        self._lock = threading.Lock()
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()

    def parse(self, request: ParseRequest) -> list[ParsedDocument]:
        """Parse one file; waits for a free child first. Raises any `IngestError`, or `SandboxError`."""
        if len(request.data) > request.limits.input_bytes:
            raise _too_large(request.name, request.limits)
        with self._borrowed() as child:
            return child.parse(request)

    def close(self) -> None:
        """End all children. The sandbox can be used again afterwards."""
        with self._lock:
            children, self._idle = list(self._children), []
            self._children.clear()
        for child in children:
            child.end()

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[_Child]:
        with self._slots:
            child = self._take()
            try:
                yield child
            finally:
                with self._lock:
                    is_kept = child.is_usable and child in self._children
                    if is_kept:
                        self._idle.append(child)
                    else:
                        self._children.discard(child)
                if not is_kept:
                    child.end()

    def _take(self) -> _Child:
        while True:
            with self._lock:
                child = self._idle.pop() if self._idle else None
            if child is None:
                break
            if child.is_running:
                return child
            with self._lock:
                self._children.discard(child)
            child.end()
        child = _Child(self._target, self._search_path)
        with self._lock:
            self._children.add(child)
        return child

    def _forget_after_fork(self) -> None:
        for child in self._children:
            child.abandon()
        self._reset()


class _Child:
    """One parsing process and the socket to it."""

    def __init__(self, target: str, search_path: Sequence[Path]) -> None:
        self.is_usable = True
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [
                        sys.executable,
                        *("-I", "-B", "-X", "utf8", "-W", "ignore"),
                        str(_CHILD_SCRIPT),
                        str(theirs.fileno()),
                        target,
                        *map(str, search_path),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={"LANG": "C.UTF-8"},
                    cwd="/",
                    # Ctrl-C is for the parent; the child ends when the socket closes.
                    start_new_session=True,
                )
        except OSError as error:
            self._connection.close()
            raise SandboxError(f"The parsing process cannot be started ({error}).") from error
        try:
            self._deadline = time.monotonic() + _START_TIMEOUT_S
            read_frame(self._read_exactly, 0)
        except (OSError, EOFError, ValueError, ReplyTooLargeError) as error:
            self.end()
            raise SandboxError(
                f"The parsing process does not start (exit status {self._process.returncode}); "
                f"try '{sys.executable} -I {_CHILD_SCRIPT} 0 {target}' to see why."
            ) from error

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def parse(self, request: ParseRequest) -> list[ParsedDocument]:
        self.is_usable = False  # until the answer has arrived whole
        limits = request.limits
        self._deadline = time.monotonic() + limits.wall_s
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # A child that dies while we write may have said why before.
                self._write(frame(request_header(request), request.data))
                self._write(request.data)
            header, body = read_frame(
                self._read_exactly, _REPLY_BASE_BYTES + _REPLY_BYTES_PER_CHARACTER * limits.text_characters
            )
            if "error" in header:
                raise error_of(header)
            documents = decode_documents(body)
        except TimeoutError:
            raise _took_too_long(request.name, limits) from None
        except ReplyTooLargeError:
            raise ParseLimitError(f"{request.name} holds too much text; split it up.", "size") from None
        except (EOFError, ConnectionResetError):
            raise self._death(request) from None
        except IngestError:
            self.is_usable = not header["retires"]
            raise
        except (ValueError, KeyError, TypeError) as error:
            raise ParseError(f"{request.name} broke the parser; save it again in the program that made it.") from error
        self.is_usable = not header["retires"]
        return documents

    def _death(self, request: ParseRequest) -> IngestError:
        """Why the child ended in the middle of a file."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_TIMEOUT_S)
        status = self._process.returncode
        if status is not None and -status in _TIMER_SIGNALS:
            return _took_too_long(request.name, request.limits)
        if status == -signal.SIGKILL:
            return ParseLimitError(
                f"{request.name} takes more memory than the machine has to spare; split it up.", "memory"
            )
        return ParseError(
            f"{request.name} crashed the parser: it is damaged or needs more than "
            f"{request.limits.memory_bytes >> 20} MB of memory; save it again in the program that made it or split it."
        )

    def end(self) -> None:
        """Close the socket, end the process and reap it."""
        self.is_usable = False
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def abandon(self) -> None:
        """In a forked process: let go of a child that belongs to the parent, without ending it."""
        self._connection.close()
        self._process.returncode = 0  # not ours to wait for; keeps Popen from trying

    def _write(self, data: bytes) -> None:
        self._connection.settimeout(self._seconds_left())
        self._connection.sendall(data)

    def _read_exactly(self, count: int) -> bytearray:
        # Grown as it arrives, so that a false length costs no memory.
        data = bytearray()
        while len(data) < count:
            self._connection.settimeout(self._seconds_left())
            received = self._connection.recv(min(count - len(data), _RECEIVE_BYTES))
            if not received:
                raise EOFError
            data += received
        return data

    def _seconds_left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


_live_sandboxes: weakref.WeakSet[Sandbox] = weakref.WeakSet()
_default_sandbox = Sandbox()


def parse_bytes(
    data: bytes | Path,
    name: str,
    media_type: str | None = None,
    limits: ParseLimits | None = None,
    *,
    jsonl: JsonlFields | None = None,
    sandbox: Sandbox | None = None,
) -> list[ParsedDocument]:
    """Parse one file, given as bytes or by path, in a bounded child process.

    `name` is shown in errors and its extension tells the format, unless `media_type` or the content says better.
    All formats but JSON Lines give exactly one document. Raises `UnsupportedFormatError`, `ParseError`,
    `ParseLimitError` or `EmptyDocumentError`; OSError for a path that cannot be read; `SandboxError`.
    """
    limits = limits or ParseLimits()
    if isinstance(data, Path):
        data = _read_bounded(data, name, limits)
    request = ParseRequest(data, name, media_type or "", limits, jsonl or JsonlFields())
    return (sandbox or _default_sandbox).parse(request)


def _read_bounded(path: Path, name: str, limits: ParseLimits) -> bytes:
    # Not blocking on a FIFO, and not reading a device for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not path.is_file():
            raise ParseError(f"{name} is not a regular file; leave it out.")
        data = file.read(limits.input_bytes + 1)
    if len(data) > limits.input_bytes:
        raise _too_large(name, limits)
    return data


def _too_large(name: str, limits: ParseLimits) -> ParseLimitError:
    return ParseLimitError(f"{name} is larger than {limits.input_bytes / (1 << 20):g} MB; split it up.", "size")


def _took_too_long(name: str, limits: ParseLimits) -> ParseLimitError:
    return ParseLimitError(
        f"{name} takes longer to read than allowed ({limits.wall_s:g} s, {limits.cpu_s:g} s of computing); "
        "split it up or save it in a simpler format.",
        "time",
    )


def _after_fork_in_child() -> None:
    for sandbox in list(_live_sandboxes):
        sandbox._forget_after_fork()


@atexit.register
def _close_all() -> None:
    for sandbox in list(_live_sandboxes):
        sandbox.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
