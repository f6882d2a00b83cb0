"""Other processes: which ones work in a folder, starting one that outlives us, ending one.

A server is recognised by its working directory, which is its data folder. Process ids in lock files are hints only:
after a crash they may name a stranger or a zombie.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from zenglow_site.embedded.accounts import Account

POLL_S = 0.02
# A fixed environment: what the caller's shell happens to set (PGPORT, LD_PRELOAD, a locale) must not change a server.
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll until `condition` is true; whether it became so in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_alive(process_id: int) -> bool:
    """Whether the process exists and is not a zombie (where process 1 does not reap, zombies stay for good)."""
    try:
        return psutil.Process(process_id).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def works_in(process_id: int, folder: Path, account: Account) -> bool:
    """Whether the process is alive, has `folder` as its working directory and runs as us or as `account`."""
    try:
        return is_alive(process_id) and Path(psutil.Process(process_id).cwd()) == folder
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        # In a container root often lacks CAP_SYS_PTRACE, so only the process's own account may look.
        if os.geteuid() != 0:
            return False
        answer = subprocess.run(
            ["/bin/sh", "-c", 'readlink "/proc/$0/cwd"', str(process_id)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **account.popen_arguments(),
        )
        return Path(os.fsdecode(answer.stdout.rstrip(b"\n").removesuffix(b" (deleted)"))) == folder


def processes_in(folder: Path, name: str, account: Account) -> list[int]:
    """Ids of the live processes called `name` that work in `folder`, oldest first."""
    return [
        process.pid
        for process in sorted(psutil.process_iter(["name", "create_time"]), key=_age_key)
        if process.info["name"] == name and works_in(process.pid, folder, account)
    ]


def _age_key(process: psutil.Process) -> tuple[float, int]:
    return process.info["create_time"] or 0.0, process.pid


def end(process_id: int, with_signal: signal.Signals, timeout_s: float) -> bool:
    """Send the signal; whether the process was gone in time. Raises PermissionError for somebody else's process."""
    try:
        os.kill(process_id, with_signal)
    except ProcessLookupError:
        return True
    return wait_until(lambda: not is_alive(process_id), timeout_s)


def start_detached(
    command: Sequence[str | Path], account: Account, log_descriptor: int, inherited: Sequence[int] = ()
) -> int:
    """Start a program that outlives us, writing to the log; its process id.

    A shell in between makes the program a child of process 1, so that nobody here has to reap it; a session of its
    own keeps the terminal's Ctrl-C away from it. `inherited` are the descriptors that the program keeps open.
    """
    started = subprocess.run(
        ["/bin/sh", "-c", '"$0" "$@" </dev/null >&2 & echo $!', *map(str, command)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log_descriptor,
        pass_fds=inherited,
        start_new_session=True,
        check=True,
        cwd="/",
        umask=0o077,
        env=ENVIRONMENT,
        **account.popen_arguments(),
    )
    return int(started.stdout)
