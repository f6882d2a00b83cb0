"""Metrics that belong to no process and are read at each scrape: queues, the machine, GPUs, our processes, models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ops.contracts.inventory import model_inventory
from ops.contracts.metrics import Samples, declare_scraped
from ops.gpu import gpus
from ops.queues import queues
from ops.system import system_figures


def declare_installation_metrics() -> None:
    """Declare them all, once."""
    declare_scraped("zenglow_queue_messages", "Tasks that wait in a queue of the broker.", _depth, ("queue",))
    declare_scraped(
        "zenglow_queue_oldest_seconds", "How long the next task of a queue has been waiting.", _age, ("queue",)
    )
    declare_scraped("zenglow_models", "Model versions that are live, by their state.", _models, ("slot", "state"))
    declare_scraped("zenglow_system_cpu_ratio", "Share of all cores in use, 0 to 1.", _cpu)
    declare_scraped("zenglow_system_load1", "Load average over a minute.", _load)
    declare_scraped("zenglow_system_memory_bytes", "Memory of the machine.", _memory, ("state",))
    declare_scraped("zenglow_system_swap_bytes", "Swap of the machine.", _swap, ("state",))
    declare_scraped("zenglow_system_disk_bytes", "The disk of the data folder.", _disk, ("state",))
    declare_scraped("zenglow_gpus", "GPUs that can be used.", lambda: [((), len(gpus()))])
    declare_scraped("zenglow_gpu_utilization_ratio", "Share of a GPU in use, 0 to 1.", _gpu_use, ("gpu",))
    declare_scraped("zenglow_gpu_memory_bytes", "Memory of a GPU.", _gpu_memory, ("gpu", "state"))
    declare_scraped("zenglow_gpu_temperature_celsius", "Temperature of a GPU.", _gpu_temperature, ("gpu",))
    declare_scraped("zenglow_processes", "Processes of ours by what they do.", lambda: _of_processes(None), ("role",))
    declare_scraped(
        "zenglow_processes_memory_bytes",
        "Resident memory of our processes; pages that they share count for each.",
        lambda: _of_processes("memory_bytes"),
        ("role",),
    )
    declare_scraped(
        "zenglow_processes_threads", "Threads of our processes.", lambda: _of_processes("threads"), ("role",)
    )
    declare_scraped(
        "zenglow_processes_open_files", "Open files of our processes.", lambda: _of_processes("open_files"), ("role",)
    )


def _depth() -> Samples:
    return [((queue.name,), queue.depth) for queue in queues()]


def _age() -> Samples:
    return [((queue.name,), queue.oldest_s) for queue in queues() if queue.oldest_s is not None]


def _models() -> Samples:
    counts = Counter((str(entry["slot"]), str(entry["state"])) for entry in model_inventory())
    return list(counts.items())


def _cpu() -> Samples:
    return [((), system_figures()["cpu"]["percent"] / 100)]


def _load() -> Samples:
    return [((), system_figures()["load"]["1m"])]


def _memory() -> Samples:
    memory = system_figures()["memory"]
    return [(("available",), memory["available_bytes"]), (("total",), memory["total_bytes"])]


def _swap() -> Samples:
    swap = system_figures()["swap"]
    return [(("used",), swap["used_bytes"]), (("total",), swap["total_bytes"])]


def _disk() -> Samples:
    disk = system_figures()["disk"]
    return [(("free",), disk["free_bytes"]), (("total",), disk["total_bytes"])]


def _gpu_use() -> Samples:
    return [((str(gpu.index),), gpu.percent / 100) for gpu in gpus() if gpu.percent is not None]


def _gpu_memory() -> Iterator[tuple[tuple[str, str], float]]:
    for gpu in gpus():
        yield (str(gpu.index), "used"), gpu.memory_used_bytes
        yield (str(gpu.index), "total"), gpu.memory_total_bytes


def _gpu_temperature() -> Samples:
    return [((str(gpu.index),), gpu.temperature_celsius) for gpu in gpus() if gpu.temperature_celsius is not None]


def _of_processes(figure: str | None) -> Samples:
    """A figure summed by role, or how many processes there are."""
    sums: Counter[tuple[str]] = Counter()
    for process in system_figures()["processes"]:
        sums[(process["role"],)] += 1 if figure is None else process[figure] or 0
    return list(sums.items())
