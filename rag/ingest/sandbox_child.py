"""The parsing child: a script that `rag.ingest.sandbox` starts, never imported by the server.

It reads files from one inherited socket, parses them, and answers on it. It can open no connection, start no program
and write no file; the kernel ends it when it takes more time or memory than a request allows, even where its parent
is gone. It ends by itself when the socket closes.

    python -I sandbox_child.py FILE_DESCRIPTOR MODULE:FUNCTION [FOLDER…]
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

_PROJECT_ROOT = str(Path(__file__).resolve().parents[2])
# openpyxl loads numpy where it finds it, which costs a tenth of a second, 30 MB, and threads that are not allowed here.
_UNWANTED_MODULES = ("numpy", "pandas")
# What a library may read beside Python and its packages.
_READABLE_ELSEWHERE = ("/usr/share/zoneinfo", "/etc/mime.types", "/dev/null", "/dev/urandom", "/proc/self/")
_FORBIDDEN_EVENTS = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "os.kill",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "os.chown",
    "shutil.",
    "ftplib.",
    "http.client.",
    "urllib.",
    "webbrowser.",
)
_MAX_FILES = 64
_MAX_REQUEST_BYTES = 1 << 31
# After this many files, or grown larger than this, a fresh child takes over: parsers leak and fragment memory.
_FILES_PER_CHILD = 500
_RETIRE_ABOVE_BYTES = 384 << 20
# The parent ends a child at the limit; this much later the child ends itself, if the parent can't any more.
_ORPHAN_GRACE_S = 5.0


def main() -> None:
    connection, target, folders = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    sys.path[:0] = [*folders, _PROJECT_ROOT]
    for name in _UNWANTED_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it raises ImportError
    _give_up_rights()
    _forbid_side_effects(folders)
    module, _, function = target.partition(":")
    _serve(connection, getattr(import_module(module), function))


def _serve(connection: int, parse: Callable[[Any], Any]) -> None:
    from rag.ingest.types import IngestError, ParseError, ParseLimitError
    from rag.ingest.wire import encode_documents, error_header, frame, read_frame, request_of

    def read_exactly(count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            received = os.readv(connection, [view])
            if received == 0:
                raise EOFError
            view = view[received:]
        return data

    def write(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(connection, view) :]

    write(frame({}))
    for served in range(1, _FILES_PER_CHILD + 1):
        try:
            header, data = read_frame(read_exactly, _MAX_REQUEST_BYTES)
        except EOFError:
            return
        request = request_of(header, data)
        del data
        body = b""
        is_exhausted = False
        try:
            with _limited(request.limits.memory_bytes, request.limits.wall_s, request.limits.cpu_s):
                body = encode_documents(parse(request))
            reply = {"ok": True}
        except IngestError as error:
            reply = error_header(error)
        except MemoryError:
            reply = error_header(
                ParseLimitError(
                    f"{request.name} needs more than {request.limits.memory_bytes >> 20} MB of memory to read; "
                    "split it up or save it in a simpler format.",
                    "memory",
                )
            )
            is_exhausted = True
        except Exception as error:
            reply = error_header(ParseError.of_fault(request.name, error))
        del request
        retires = is_exhausted or served == _FILES_PER_CHILD or _memory_bytes() > _RETIRE_ABOVE_BYTES
        write(frame(reply | {"retires": retires}, body))
        write(body)
        if retires:
            return


class _limited(contextlib.AbstractContextManager[None]):  # noqa: N801 (reads as a function)
    """Sets the kernel's limits for one file and lifts them again, so that the answer can still be sent."""

    def __init__(self, memory_bytes: int, wall_s: float, cpu_s: float) -> None:
        self._memory_bytes = memory_bytes
        self._wall_s = wall_s
        self._cpu_s = cpu_s

    def __enter__(self) -> None:
        # The default action of both signals ends the process, also inside a library that never returns to Python.
        signal.setitimer(signal.ITIMER_REAL, self._wall_s + _ORPHAN_GRACE_S)
        signal.setitimer(signal.ITIMER_PROF, self._cpu_s)
        _set_soft_limit(resource.RLIMIT_AS, self._memory_bytes)

    def __exit__(self, *_: object) -> None:
        _set_soft_limit(resource.RLIMIT_AS, resource.RLIM_INFINITY)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_soft_limit(kind: int, value: int) -> None:
    # macOS knows RLIMIT_AS but refuses to set it: there only time and output are bounded.
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY and (value == resource.RLIM_INFINITY or value > hard):
            value = hard
        resource.setrlimit(kind, (value, hard))


def _give_up_rights() -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
    ):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (value, value))


def _forbid_side_effects(folders: list[str]) -> None:
    """A second fence behind the parsers' own settings: no audited call may write, connect or start anything."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, _PROJECT_ROOT, *folders}
    readable = tuple(f"{folder.rstrip('/')}/" for root in roots for folder in (root, str(Path(root).resolve())))
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, int):
                return
            name = os.fsdecode(path)
            if flags & writing and name != os.devnull:
                raise PermissionError(f"parsing may not write {name}")
            if not name.startswith(readable) and not name.startswith(_READABLE_ELSEWHERE):
                raise PermissionError(f"parsing may not read {name}")
        elif event.startswith(_FORBIDDEN_EVENTS):
            raise PermissionError(f"parsing may not call {event}")

    sys.addaudithook(audit)


def _memory_bytes() -> int:
    if sys.platform == "linux":
        # Not the peak, which a process inherits from the one that started it.
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
