"""Answers that this process gave or read lately, in front of Redis: to ask for one there takes a tenth of a hit's time.

The key of an answer is made of everything that decides it, so what lies under it can't become wrong, only old. It is
given for as long as Redis would give it; what is too old lies here until it is asked for or others need the room.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import NamedTuple

_OVERHEAD_BYTES = 300
"""Of an answer besides its bytes: its key, and its place in a dictionary."""


class _Held(NamedTuple):
    answer: bytes
    until: float
    """Of `time.monotonic`."""


class AnswerMemory:
    """Encoded answers by key, at most ``capacity_bytes``: those that were asked for last. For any thread."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def recall(self, key: str) -> bytes | None:
        """The answer, unless its time is over."""
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return None
            if held.until <= time.monotonic():
                self._drop(key)
                return None
            self._held.move_to_end(key)
        return held.answer

    def keep(self, key: str, answer: bytes, for_s: float, capacity_bytes: int) -> None:
        """Hold an answer for so many seconds, if it fits at all; others make room."""
        size = len(answer) + _OVERHEAD_BYTES
        with self._lock:
            self._drop(key)
            if size > capacity_bytes or for_s <= 0:
                return
            self._held[key] = _Held(answer, time.monotonic() + for_s)
            self._bytes += size
            while self._bytes > capacity_bytes:
                self._drop(next(iter(self._held)))

    def forget(self) -> None:
        with self._lock:
            self._held.clear()
            self._bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def _drop(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= len(held.answer) + _OVERHEAD_BYTES


memory = AnswerMemory()
"""Of this process."""
