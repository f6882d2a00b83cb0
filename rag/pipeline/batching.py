"""Calls that come at the same time share one run.

There is nothing to wait for while a slot is free: the caller runs at once, alone. Whoever comes while all slots are
taken waits in line; when a slot becomes free, the first in line runs for itself and for those behind it. So one caller
at a time pays nothing, and the busier it is, the larger the batches.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class QueueTimeoutError(Exception):
    """No slot became free in time."""


@dataclass(eq=False, slots=True)
class _Call(Generic[Item, Result]):
    item: Item
    woken: threading.Event = field(default_factory=threading.Event)
    """Set when the call is to run, and when somebody else has run it."""
    leads: bool = False
    results: list[Result] = field(default_factory=list)
    """One result, once it is there; none after an error."""
    error: Exception | None = None


class Batcher(Generic[Item, Result]):
    """Runs ``run(items)`` for callers from any thread, in the order in which they came.

    ``run`` returns one result an item, in their order. At most ``slots`` runs happen at once, each of at most
    ``most`` items. A run that is about to start after another waits up to ``linger_s`` for more callers: those whom
    the run before it has just answered are on their way back. An error of a shared run reaches nobody else than whom
    it concerns: its items are then run one by one.
    """

    def __init__(
        self, run: Callable[[Sequence[Item]], Sequence[Result]], *, slots: int, most: int, linger_s: float = 0.0
    ) -> None:
        self._run = run
        self._most = most
        self._linger_s = linger_s
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._free = slots
        self._waiting: deque[_Call[Item, Result]] = deque()
        self._last_size = 1

    def __call__(self, item: Item, timeout_s: float) -> Result:
        """The item's own result. Raises what ``run`` raised, and `QueueTimeoutError` after ``timeout_s`` in line."""
        call: _Call[Item, Result] = _Call(item)
        with self._lock:
            if self._free:
                self._free -= 1
                call.leads = True
            else:
                self._waiting.append(call)
                self._arrived.notify()
        if call.leads:
            self._lead([call])
        else:
            self._wait(call, timeout_s)
        if call.error is not None:
            raise call.error
        return call.results[0]

    def _wait(self, call: _Call[Item, Result], timeout_s: float) -> None:
        try:
            in_time = call.woken.wait(timeout_s)
        except BaseException:  # an interrupt: nobody must wait for a leader that has gone
            if not self._withdraw(call):
                self._pass_on(call)
            raise
        if not in_time and self._withdraw(call):
            raise QueueTimeoutError(f"No turn came within {timeout_s:g} s.")
        # In time, or taken along at the last moment: then its run is under way.
        call.woken.wait()
        if call.leads:
            self._lead([call, *self._join()])

    def _withdraw(self, call: _Call[Item, Result]) -> bool:
        """Leave the line; ``False`` when somebody has already taken the call out of it."""
        with self._lock:
            if call in self._waiting:
                self._waiting.remove(call)
                return True
            return False

    def _pass_on(self, call: _Call[Item, Result]) -> None:
        """Give the slot of a call that can't use it to the next."""
        if call.leads:
            self._release()

    def _join(self) -> list[_Call[Item, Result]]:
        """Those who go along with a leader, after a short wait while fewer are there than went last time."""
        deadline = time.monotonic() + self._linger_s
        with self._lock:
            while len(self._waiting) + 1 < min(self._last_size, self._most):
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0 or not self._arrived.wait(remaining_s):
                    break
            joining = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most - 1))]
            self._last_size = max(len(joining) + 1, self._last_size - 1)
        return joining

    def _lead(self, calls: Sequence[_Call[Item, Result]]) -> None:
        try:
            self._answer(calls)
        finally:
            self._release()
            for call in calls[1:]:
                call.woken.set()

    def _answer(self, calls: Sequence[_Call[Item, Result]]) -> None:
        try:
            results = self._run([call.item for call in calls])
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._answer([call])
        else:
            for call, result in zip(calls, results, strict=True):
                call.results.append(result)

    def _release(self) -> None:
        with self._lock:
            if self._waiting:
                following = self._waiting.popleft()
                following.leads = True
                following.woken.set()
            else:
                self._free += 1
