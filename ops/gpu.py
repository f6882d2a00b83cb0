"""NVIDIA GPUs through NVML, where there are any."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import pynvml


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now. Figures that its driver does not tell are ``None``."""

    index: int
    name: str
    percent: float | None
    memory_used_bytes: int
    memory_total_bytes: int
    temperature_celsius: float | None
    power_watts: float | None


_lock = threading.Lock()
_is_present: bool | None = None


def gpus() -> list[Gpu]:
    """Every GPU of this machine; none without a driver, which is looked for once."""
    global _is_present
    with _lock:
        if _is_present is None:
            _is_present = _start()
        if not _is_present:
            return []
        try:
            return [_read(index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError:
            return []


def _start() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _read(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    utilisation = _told(pynvml.nvmlDeviceGetUtilizationRates, handle)
    power_mw = _told(pynvml.nvmlDeviceGetPowerUsage, handle)
    return Gpu(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        percent=None if utilisation is None else float(utilisation.gpu),
        memory_used_bytes=int(memory.used),
        memory_total_bytes=int(memory.total),
        temperature_celsius=_told(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        power_watts=None if power_mw is None else power_mw / 1000,
    )


def _told(ask: Any, *arguments: Any) -> Any:
    """The answer, or ``None`` where this GPU has none."""
    try:
        return ask(*arguments)
    except pynvml.NVMLError:
        return None
