"""Figures of this machine and process."""

from __future__ import annotations

import shutil
from typing import Any

import psutil
from django.conf import settings

_process = psutil.Process()


def system_figures() -> dict[str, Any]:
    """CPU, memory, swap, load, disk and this process. Sizes in bytes, percentages from 0 to 100.

    CPU percentages are over the time since the last call (since the start at the first call).
    """
    memory = psutil.virtual_memory()
    swap = psutil.swap_memory()
    disk = shutil.disk_usage(settings.ZENGLOW_DATA_DIR)
    load_1m, load_5m, load_15m = psutil.getloadavg()
    with _process.oneshot():
        process = {
            "pid": _process.pid,
            "cpu_percent": _process.cpu_percent(),
            "memory_bytes": _process.memory_info().rss,
            "threads": _process.num_threads(),
        }
    return {
        "cpu": {"count": psutil.cpu_count(), "percent": psutil.cpu_percent()},
        "load": {"1m": round(load_1m, 2), "5m": round(load_5m, 2), "15m": round(load_15m, 2)},
        "memory": {"total_bytes": memory.total, "available_bytes": memory.available, "percent": memory.percent},
        "swap": {"total_bytes": swap.total, "used_bytes": swap.used, "percent": swap.percent},
        "disk": {"total_bytes": disk.total, "free_bytes": disk.free, "percent": round(100 * disk.used / disk.total, 1)},
        "process": process,
    }
