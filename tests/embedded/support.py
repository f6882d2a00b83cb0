"""Helpers of the embedded stack's tests: other processes, other accounts, cleaning up."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.patience import PATIENCE_S
from zenglow_site.embedded.accounts import Account
from zenglow_site.embedded.installs import postgres_install_for, redis_server_for
from zenglow_site.embedded.processes import is_alive, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
SHUTDOWN_PATIENCE_S = 5.0
# The parent decides these; everything else that a child sees is spelled out.
CHILD_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)}

# An account may be unable to enter the checkout, the virtual environment or Python's own folder, so a child loads
# everything first and becomes that account then.
BECOME = """
import encodings.ascii, os
import zenglow_site.embedded.stack
os.setgroups([])
os.setgid({gid})
os.setuid({uid})
"""

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start processes as another account")


def nobody() -> Account:
    """An ordinary account, different from the one that root's PostgreSQL gets where there is a better one."""
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_uid, entry.pw_gid)


def python(
    code: str,
    *arguments: object,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    prefix: tuple[str, ...] = (),
    flags: tuple[str, ...] = (),
    umask: int = -1,
) -> subprocess.Popen[str]:
    """Start `code` in a Python of its own; it finds `arguments` in `sys.argv[1:]`."""
    if account is not None:
        code = BECOME.format(uid=account.uid, gid=account.gid) + code
    command = [*prefix, sys.executable, *flags, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env=CHILD_ENVIRONMENT | dict(environment or {}),
        umask=umask,
    )


def programs_for(account: Account, place: Path) -> dict[str, str]:
    """Environment in which an account finds server programs even if it can't enter the virtual environment."""
    packages = postgres_install_for(account, place / "programs").parent.parent
    program = redis_server_for(account, place / "programs")
    return {
        "PYTHONPATH": f"{packages}:{REPOSITORY}",
        "PATH": f"{program.parent}:{CHILD_ENVIRONMENT['PATH']}",
    }


def finish(child: subprocess.Popen[str]) -> str:
    """Wait for a child that must succeed; what it printed."""
    output, errors = child.communicate(timeout=PATIENCE_S)
    assert child.returncode == 0, errors
    return output.strip()


def kill(process_id: int) -> None:
    """kill -9, and wait until the process is dead (a zombie is)."""
    os.kill(process_id, 9)
    assert wait_until(lambda: not is_alive(process_id), PATIENCE_S)


def processes_below(folder: Path) -> list[psutil.Process]:
    """Live processes that work in the folder or below."""
    found = []
    for process in psutil.process_iter():
        try:
            if is_alive(process.pid) and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except psutil.Error:
            continue
    return found


def name_of(process: psutil.Process) -> str:
    """What the process table calls it; nothing once it has ended, as PostgreSQL's helpers do at any time."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def command_of(process: psutil.Process) -> list[str]:
    """Its command line; empty once it has ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def _end_servers(place: Path) -> None:
    """An immediate shutdown, which gives shared memory back to the kernel; kill what is left after it."""
    for process in processes_below(place):
        with suppress(psutil.NoSuchProcess):
            if "-D" in process.cmdline():
                process.send_signal(signal.SIGQUIT)
                process.send_signal(signal.SIGCONT)
            elif process.name() != "postgres":
                process.kill()
    wait_until(lambda: not processes_below(place), SHUTDOWN_PATIENCE_S)
    for process in processes_below(place):
        with suppress(psutil.NoSuchProcess):
            process.kill()


@contextmanager
def temporary_place() -> Iterator[Path]:
    """A folder with a short path that every account may pass through but only its owner may read.

    pytest's own temporary folders are closed to other accounts, and their paths leave little room for a socket's
    name. Every server that works below the folder is killed in the end, and the folder is removed.
    """
    place = Path(tempfile.mkdtemp(prefix="zgt-", dir="/tmp")).resolve()
    place.chmod(0o711)
    try:
        yield place
    finally:
        _end_servers(place)
        assert wait_until(lambda: not processes_below(place), PATIENCE_S)
        shutil.rmtree(place)
