"""Figures of this machine and of our processes on it."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import psutil
from django.conf import settings

from ops.gpu import gpus
from ops.instrumentation.processes import live_processes, shared_folder

REUSED_FOR_S = 1.0

_last: tuple[float, dict[str, Any]] = (float("-inf"), {})
_cpu_times = psutil.cpu_times()
_spent: dict[int, tuple[float, float]] = {}
"""Of each process: when it was looked at, and the CPU seconds it had used by then."""
_lock = threading.Lock()


def system_figures() -> dict[str, Any]:
    """CPU, memory, swap, load, disk, GPUs and our processes. Sizes in bytes, percentages from 0 to 100.

    Figures are reused for `REUSED_FOR_S`, so that several readers don't shorten each other's measurement: CPU
    percentages are over the time since the reading before. That of a process may exceed 100, once for each core.
    """
    global _last
    with _lock:
        read_at, figures = _last
        if time.monotonic() - read_at >= REUSED_FOR_S:
            _last = (time.monotonic(), figures := _read())
        return figures


def _read() -> dict[str, Any]:
    memory = psutil.virtual_memory()
    swap = psutil.swap_memory()
    disk = shutil.disk_usage(settings.ZENGLOW_DATA_DIR)
    load_1m, load_5m, load_15m = psutil.getloadavg()
    return {
        "cpu": {"count": psutil.cpu_count(), "percent": _cpu_percent()},
        "load": {"1m": round(load_1m, 2), "5m": round(load_5m, 2), "15m": round(load_15m, 2)},
        "memory": {"total_bytes": memory.total, "available_bytes": memory.available, "percent": memory.percent},
        "swap": {"total_bytes": swap.total, "used_bytes": swap.used, "percent": swap.percent},
        "disk": {"total_bytes": disk.total, "free_bytes": disk.free, "percent": round(100 * disk.used / disk.total, 1)},
        "gpus": [asdict(gpu) for gpu in gpus()],
        "processes": _process_figures(),
    }


def _cpu_percent() -> float:
    """Since the reading before. psutil's own figure is kept for each thread, and requests have threads of their own."""
    global _cpu_times
    before, _cpu_times = _cpu_times, psutil.cpu_times()
    spent = {name: getattr(_cpu_times, name) - getattr(before, name) for name in _cpu_times._fields}
    # Linux counts the time of guests twice, in `user` as well.
    total = sum(amount for name, amount in spent.items() if not name.startswith("guest"))
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return round(100 * min(max(1 - idle / total, 0.0), 1.0), 1) if total > 0 else 0.0


def _process_figures() -> list[dict[str, Any]]:
    """Our live processes by id: those that share their counts, or this one alone."""
    folder = shared_folder()
    found = [psutil.Process()] if folder is None else live_processes(folder)
    for pid in _spent.keys() - {process.pid for process in found}:
        del _spent[pid]
    figures = []
    for process in sorted(found, key=lambda one: one.pid):
        with suppress(psutil.Error):
            figures.append(_figures(process))
    return figures


def _figures(process: psutil.Process) -> dict[str, Any]:
    with process.oneshot():
        return {
            "pid": process.pid,
            "role": role_of(process.cmdline()),
            "cpu_percent": _cpu_percent_of(process),
            "memory_bytes": process.memory_info().rss,
            "threads": process.num_threads(),
            "open_files": process.num_fds() if hasattr(process, "num_fds") else None,
            "started_at": process.create_time(),
        }


def _cpu_percent_of(process: psutil.Process) -> float:
    """Since the reading before; at the first one, since the process began. psutil's own begins with 0."""
    now, times = time.time(), process.cpu_times()
    used_s = times.user + times.system
    before, used_before_s = _spent.get(process.pid, (process.create_time(), 0.0))
    _spent[process.pid] = (now, used_s)
    return round(100 * max(used_s - used_before_s, 0.0) / max(now - before, 0.01), 1)


def role_of(command_line: list[str]) -> str:
    """What a process of ours does, by its command line: ``web``, ``worker`` or ``command``."""
    words = " ".join(command_line)
    if "daphne" in words or "asgi" in words:
        return "web"
    return "worker" if "celery" in words else "command"
