"""Calls that share runs: who waits, who runs for whom, in which order, and what errors and impatience do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from rag.pipeline.batching import Batcher, QueueTimeoutError
from tests.patience import PATIENCE_S, eventually


class Gate:
    """A run that says what it was given and goes on when told so."""

    def __init__(self) -> None:
        self.started: queue.Queue[list[str]] = queue.Queue()
        self._go = threading.Semaphore(0)

    def __call__(self, items: Sequence[str]) -> list[str]:
        self.started.put(list(items))
        assert self._go.acquire(timeout=PATIENCE_S)
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]

    def next(self) -> list[str]:
        """The items of the next run that starts."""
        return self.started.get(timeout=PATIENCE_S)

    def open(self, runs: int = 1) -> None:
        self._go.release(runs)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as pool:
        yield pool


def call(callers: ThreadPoolExecutor, batcher: Batcher[str, str], item: str) -> Future[str]:
    """Call from another thread; returns when the call stands in line or runs."""
    before = position(batcher)
    future = callers.submit(batcher, item, PATIENCE_S)
    eventually(lambda: position(batcher) != before)
    return future


def position(batcher: Batcher[str, str]) -> tuple[int, int]:
    with batcher._lock:
        return batcher._free, len(batcher._waiting)


def test_one_caller_at_a_time_runs_at_once_and_alone() -> None:
    sizes: list[int] = []

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    # A wait that nobody could sit out: one caller must not come near it.
    batcher: Batcher[int, int] = Batcher(run, slots=1, most=8, linger_s=3600.0)
    assert [batcher(number, PATIENCE_S) for number in range(5)] == [0, 2, 4, 6, 8]
    assert sizes == [1] * 5


def test_those_who_come_during_a_run_share_the_next_in_their_order(gate: Gate, callers: ThreadPoolExecutor) -> None:
    batcher: Batcher[str, str] = Batcher(gate, slots=1, most=3)
    futures = [call(callers, batcher, item) for item in "abcdef"]
    runs = []
    for _ in range(3):
        runs.append(gate.next())
        gate.open()
    assert runs == [["a"], ["b", "c", "d"], ["e", "f"]]
    assert [future.result(PATIENCE_S) for future in futures] == list("ABCDEF")
    assert position(batcher) == (1, 0)


def test_as_many_runs_happen_at_once_as_there_are_slots(gate: Gate, callers: ThreadPoolExecutor) -> None:
    batcher: Batcher[str, str] = Batcher(gate, slots=2, most=8)
    futures = [call(callers, batcher, item) for item in "abcd"]
    assert {*gate.next(), *gate.next()} == {"a", "b"}
    assert gate.started.empty()
    gate.open(2)
    later = gate.next()
    gate.open(2)
    assert sorted([*later, *([] if len(later) == 2 else gate.next())]) == ["c", "d"]
    assert [future.result(PATIENCE_S) for future in futures] == list("ABCD")
    assert position(batcher) == (2, 0)


def test_an_error_of_a_shared_run_reaches_only_whom_it_concerns(gate: Gate, callers: ThreadPoolExecutor) -> None:
    batcher: Batcher[str, str] = Batcher(gate, slots=1, most=8)
    futures = {item: call(callers, batcher, item) for item in ("first", "good", "bad", "fine")}
    gate.open(10)
    assert futures["good"].result(PATIENCE_S) == "GOOD"
    assert futures["fine"].result(PATIENCE_S) == "FINE"
    with pytest.raises(ValueError, match="bad"):
        futures["bad"].result(PATIENCE_S)
    assert position(batcher) == (1, 0)


def test_who_waits_no_longer_leaves_the_line_and_the_others_stay(gate: Gate, callers: ThreadPoolExecutor) -> None:
    batcher: Batcher[str, str] = Batcher(gate, slots=1, most=8)
    running = call(callers, batcher, "running")
    patient = call(callers, batcher, "patient")
    with pytest.raises(QueueTimeoutError):
        batcher("impatient", 0.0)
    assert gate.next() == ["running"]
    gate.open(2)
    assert gate.next() == ["patient"]
    assert (running.result(PATIENCE_S), patient.result(PATIENCE_S)) == ("RUNNING", "PATIENT")


def test_every_one_of_many_callers_gets_its_own_result() -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [item * item for item in items], slots=2, most=4, linger_s=0.001)
    with ThreadPoolExecutor(24) as pool:
        assert list(pool.map(lambda number: batcher(number, PATIENCE_S), range(2000))) == [n * n for n in range(2000)]
    with batcher._lock:
        assert (batcher._free, len(batcher._waiting)) == (2, 0)
