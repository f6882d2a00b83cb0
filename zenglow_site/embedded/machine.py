"""How large this machine is, as far as this process may use it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil

MIB = 1024 * 1024


def memory_bytes() -> int:
    """Memory that this process may use: the machine's, or less where a control group (a container) allows less."""
    limits = []
    if sys.platform == "linux":
        limits = control_group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return min([psutil.virtual_memory().total, *limits])


def control_group_limits(membership: Path, mount: Path) -> list[int]:
    """Memory limits in bytes of the control groups that `membership` (a /proc/<pid>/cgroup) names, and their parents.

    Knows version 2 (`memory.max`) and version 1 (`memory/…/memory.limit_in_bytes`); what can't be read sets no limit.
    """
    try:
        lines = membership.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, name = mount, "memory.max"
        elif "memory" in controllers.split(","):
            base, name = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(base):
                break
            limits += _read_limit(folder / name)
    return limits


def _read_limit(file: Path) -> list[int]:
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return []
    return [int(text)] if text.isdigit() else []  # "max" means no limit


def free_shared_memory_bytes() -> int | None:
    """Free room in /dev/shm (64 MB by default in a container); None where shared memory has no such file system."""
    try:
        return psutil.disk_usage("/dev/shm").free  # noqa: S108 (measured, not written)
    except OSError:
        return None


def processors() -> int:
    """Processors that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
