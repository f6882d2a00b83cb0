"""Counts of several processes, added up: web servers, Celery workers and their children share one folder.

Each process writes its counts into files of its own there (`prometheus_client`'s multi-process mode). When one has
ended, its counters are folded into the files of ``ENDED``, so that a total never falls, and its gauges go. Folding and
reading exclude each other by a lock, so that nothing is counted twice or left out.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

from ops.contracts.env import handed_over
from ops.contracts.metrics import SHARED_FOLDER_VARIABLE, ScrapedMetrics, started_at_ticks

ENDED = "ended"
"""Stands for the identity of all processes that are gone."""

_merge: Any = MultiProcessCollector.merge


def shared_folder() -> Path | None:
    """The folder with the counts of all processes; ``None`` while this process counts for itself."""
    folder = handed_over(SHARED_FOLDER_VARIABLE)
    return Path(folder) if folder else None


def registry() -> CollectorRegistry:
    """What a scrape reads: the counts of every process, and what belongs to none."""
    folder = shared_folder()
    if folder is None:
        return _own_registry()
    together = CollectorRegistry()
    together.register(_Together(folder))
    together.register(ScrapedMetrics())
    return together


def live_processes(folder: Path) -> list[psutil.Process]:
    """The processes that count into ``folder``, by id."""
    found = {identity: _process(identity) for identity in {_identity_of(file) for file in folder.glob("*.db")}}
    return sorted((process for process in found.values() if process is not None), key=lambda process: process.pid)


def fold_ended(folder: Path) -> int:
    """Fold the files of processes that have ended; how many files went."""
    with _locked(folder, fcntl.LOCK_EX):
        files = list(folder.glob("*.db"))
        alive = {identity: _process(identity) is not None for identity in {_identity_of(file) for file in files}}
        ended = [file for file in files if not alive[_identity_of(file)] and _identity_of(file) != ENDED]
        for kind in ("counter", "histogram", "summary"):
            _fold([file for file in ended if file.name.startswith(f"{kind}_")], folder / f"{kind}_{ENDED}.db")
        for file in ended:
            file.unlink()
        return len(ended)


def forget_counts(folder: Path) -> None:
    """Start from nothing: for whoever starts all of the processes."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, fcntl.LOCK_EX):
        for file in folder.glob("*.db"):
            file.unlink()


class _Together:
    """The collector of a shared folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Family]:
        fold_ended(self._folder)
        with _locked(self._folder, fcntl.LOCK_SH):
            yield from list(_merge([str(file) for file in self._folder.glob("*.db")], accumulate=True))


def _own_registry() -> CollectorRegistry:
    global _scraped_is_registered
    if not _scraped_is_registered:
        REGISTRY.register(ScrapedMetrics())
        _scraped_is_registered = True
    return REGISTRY


_scraped_is_registered = False


def _fold(files: list[Path], target: Path) -> None:
    if not files:
        return
    sources = [str(file) for file in (*files, target) if file.exists()]
    whole = target.with_suffix(".new")
    whole.unlink(missing_ok=True)
    # Not accumulated: the files hold the count of each bucket by itself.
    families = list(_merge(sources, accumulate=False))
    counts: Any = MmapedDict(str(whole))  # type: ignore[no-untyped-call]
    for family in families:
        for sample in family.samples:
            names, label_values = list(sample.labels), list(sample.labels.values())
            key = mmap_key(family.name, sample.name, names, label_values, family.documentation)
            counts.write_value(key, sample.value, 0.0)
    counts.close()
    whole.replace(target)


def _identity_of(file: Path) -> str:
    return file.stem.rsplit("_", 1)[-1]


def is_alive(identity: str) -> bool:
    """Whether the process of that identity still runs."""
    return _process(identity) is not None


def _process(identity: str) -> psutil.Process | None:
    """The process of that identity, while it lives."""
    pid, _, started = identity.partition("-")
    if not (pid.isdecimal() and started.isdecimal()):
        return None
    try:
        process = psutil.Process(int(pid))
        # A clock that is set meanwhile moves all start times by a little.
        same = abs(started_at_ticks(int(pid)) - int(started)) < 200
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, kind)
        yield
