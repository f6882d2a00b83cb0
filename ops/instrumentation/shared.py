"""The figures of all our processes on this machine together, without asking any of them.

Each process writes its own into the folder that they share, once a second while they change; whoever is asked adds the
others' to its own. Alone, without such a folder, a process tells its own.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from ops.contracts.metrics import process_identity
from ops.instrumentation.histogram import BUCKETS
from ops.instrumentation.processes import is_alive, shared_folder
from ops.instrumentation.snapshot import SNAPSHOT, Figures

logger = logging.getLogger(__name__)

WRITE_INTERVAL_S = 1.0
WINDOW_VALID_S = 30.0
"""Latencies in a file that was not written for so long are left out; its counts stay."""
ALIVE_CHECK_INTERVAL_S = 5.0

PREFIX = "figures_"

_read: dict[Path, tuple[int, Figures]] = {}
_checked: dict[Path, float] = {}
_writer_of = 0


def figures() -> Figures:
    """The counts of every live process; those of others are up to a second old."""
    own = SNAPSHOT.figures()
    folder = shared_folder()
    if folder is None:
        return own
    start_writing()
    for file in folder.glob(f"{PREFIX}*.json"):
        if file.stem != f"{PREFIX}{process_identity()}" and (other := _figures_in(file)) is not None:
            own.add(other)
    return own


def start_writing() -> None:
    """Begin to write this process's figures, once, if there is a folder. A fork begins anew."""
    global _writer_of
    if _writer_of != os.getpid() and shared_folder() is not None:
        _writer_of = os.getpid()
        threading.Thread(target=_write_on, name="write-figures", daemon=True).start()


def write(folder: Path) -> None:
    """Write this process's figures now."""
    now = SNAPSHOT.figures()
    body = {
        "uptime_s": now.uptime_s,
        "queries": now.queries,
        "failed_queries": now.failed_queries,
        "lookups": [[*names, number] for names, number in now.lookups.items()],
        "counts": now.counts,
        "errors": now.errors,
        "windows": {
            name: {str(bucket): number for bucket, number in enumerate(window) if number}
            for name, window in now.windows.items()
        },
    }
    target = folder / f"{PREFIX}{process_identity()}.json"
    draft = target.with_suffix(".new")
    draft.write_text(json.dumps(body), encoding="utf-8")
    draft.replace(target)


def _write_on() -> None:
    pid, last = os.getpid(), None
    while os.getpid() == pid:
        folder = shared_folder()
        now = SNAPSHOT.figures()
        now.uptime_s = 0.0
        busy = any(map(any, now.windows.values()))
        if folder is not None and (now != last or busy):
            try:
                write(folder)
                last = now
            except OSError as error:
                logger.warning("This process's figures could not be written: %s", type(error).__name__)
                time.sleep(WINDOW_VALID_S)
        time.sleep(WRITE_INTERVAL_S)


def _figures_in(file: Path) -> Figures | None:
    """What a file says; ``None`` when its process has ended, and then the file goes."""
    now = time.monotonic()
    try:
        if now - _checked.get(file, float("-inf")) >= ALIVE_CHECK_INTERVAL_S:
            if not is_alive(file.stem.removeprefix(PREFIX)):
                file.unlink()
                return None
            _checked[file] = now
        written = file.stat()
        known = _read.get(file)
        if known is None or known[0] != written.st_mtime_ns:
            known = _read[file] = (written.st_mtime_ns, _parsed(json.loads(file.read_text("utf-8"))))
    except (OSError, ValueError):
        with suppress(KeyError):
            del _read[file]
        return None
    found = known[1]
    if time.time() - written.st_mtime > WINDOW_VALID_S:
        return Figures(found.uptime_s, found.queries, found.failed_queries, found.lookups, found.counts, found.errors)
    return found


def _parsed(body: dict[str, Any]) -> Figures:
    windows = {}
    for name, counts in body["windows"].items():
        windows[name] = window = [0] * BUCKETS
        for bucket, number in counts.items():
            window[int(bucket)] = number
    return Figures(
        body["uptime_s"],
        Counter(body["queries"]),
        body["failed_queries"],
        Counter({(cache, outcome, reason): number for cache, outcome, reason, number in body["lookups"]}),
        Counter(body["counts"]),
        Counter(body["errors"]),
        windows,
    )
