from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from models_registry import loading, serving
from models_registry.live import LiveModel
from models_registry.loading import LoadState
from models_registry.models import Slot


def version(number: int, slot: Slot = Slot.LTR) -> LiveModel:
    return LiveModel(number, "global", slot, number, "ranker", number, "lightgbm", {}, {})


class Memory:
    """A loader that holds numbers, and waits for `gate` before it loads."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.loads: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.broken: set[int] = set()

    def is_loaded(self, model: LiveModel) -> bool:
        return model.version_id in self.held

    def load(self, model: LiveModel) -> None:
        self.loads.append(model.version_id)
        assert self.gate.wait(300)
        with loading.loading(model.label):
            if model.version_id in self.broken:
                raise ValueError("no trees")
        self.held.add(model.version_id)

    def unload(self, model: LiveModel) -> None:
        self.held.discard(model.version_id)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    loader = Memory()
    monkeypatch.setattr(serving, "_loaders", {Slot.LTR: loader})
    monkeypatch.setattr(serving.view, "all", lambda: ())
    yield loader
    loader.gate.set()
    serving.forget()
    for report in loading.reports():
        if report.label.startswith("ranker@"):
            loading.unloaded(report.label)


def answers(number: int, collection: str = "papers") -> int:
    """Number of the version that answers while this one is live."""
    return serving.in_service(version(number), collection).number


def test_the_first_version_answers_at_once_for_there_is_no_other(memory: Memory) -> None:
    assert answers(1) == 1
    assert memory.loads == []


def test_the_one_before_answers_until_the_new_one_is_warm(memory: Memory) -> None:
    memory.held = {1}
    assert answers(1) == 1
    memory.gate.clear()
    assert [answers(2) for _ in range(5)] == [1] * 5
    assert memory.loads in ([], [2])  # its thread may not have begun
    memory.gate.set()
    serving.settle()
    assert memory.loads == [2]
    assert answers(2) == 2


def test_the_one_before_drains_once_nothing_needs_it(memory: Memory) -> None:
    memory.held = {1, 2}
    assert (answers(1, "papers"), answers(1, "manuals")) == (1, 1)
    assert answers(2, "papers") == 2
    assert memory.held == {1, 2}
    assert answers(2, "manuals") == 2
    assert memory.held == {2}
    assert loading.report_of("ranker@1").state == LoadState.DRAINING


def test_what_is_live_elsewhere_is_kept(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.held = {1, 2}
    monkeypatch.setattr(serving.view, "all", lambda: (version(1),))
    answers(1)
    answers(2)
    assert memory.held == {1, 2}


def test_one_that_cannot_be_loaded_never_answers_and_is_not_tried_at_each_query(memory: Memory) -> None:
    memory.held, memory.broken = {1}, {2}
    answers(1)
    for _ in range(3):
        assert answers(2) == 1
        serving.settle()
    assert memory.loads == [2]
    report = loading.report_of("ranker@2")
    assert (report.state, report.error) == (LoadState.FAILED, "ValueError: no trees")
    assert answers(1) == 1


def test_without_the_one_before_nobody_waits_for_it(memory: Memory) -> None:
    memory.held = {1}
    answers(1)
    memory.held = set()
    assert answers(2) == 2


def test_a_candidate_is_loaded_before_it_gets_traffic(memory: Memory) -> None:
    assert not serving.is_ready(version(3))
    serving.settle()
    assert serving.is_ready(version(3))
    assert serving.is_ready(version(1, Slot.EMBEDDER))  # nobody loads it here


def test_what_is_live_is_loaded_before_the_first_query(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.broken = {2}
    monkeypatch.setattr(serving.view, "all", lambda: (version(1), version(2), version(4, Slot.EMBEDDER)))
    serving.warm_up()
    assert memory.loads == [1, 2]
    assert memory.held == {1}
