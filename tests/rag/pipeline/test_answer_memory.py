"""Answers in a process's memory: how long, how many, and which go first."""

from __future__ import annotations

import time
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.pipeline.answer_memory import _OVERHEAD_BYTES, AnswerMemory

ROOM = 10 * _OVERHEAD_BYTES


def test_an_answer_is_held_until_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    memory = AnswerMemory()
    memory.keep("a", b"answer", 5.0, ROOM)
    now = 104.9
    assert memory.recall("a") == b"answer"
    now = 105.0
    assert memory.recall("a") is None
    assert len(memory) == 0


@pytest.mark.parametrize("for_s", [0.0, -0.002])
def test_what_has_no_time_left_is_not_held(for_s: float) -> None:
    memory = AnswerMemory()
    memory.keep("a", b"answer", for_s, ROOM)
    assert memory.recall("a") is None


def test_an_answer_that_does_not_fit_takes_the_place_of_no_other() -> None:
    memory = AnswerMemory()
    memory.keep("a", b"answer", 60, ROOM)
    memory.keep("b", bytes(ROOM), 60, ROOM)
    assert (memory.recall("a"), memory.recall("b")) == (b"answer", None)


def test_without_room_nothing_is_held() -> None:
    memory = AnswerMemory()
    memory.keep("a", b"answer", 60, 0)
    assert memory.recall("a") is None


KEYS = st.sampled_from("abcdef")
STEPS = st.lists(st.tuples(KEYS, st.integers(0, 4 * _OVERHEAD_BYTES) | st.none()), max_size=40)


@given(STEPS)
def test_it_holds_what_was_used_last_as_far_as_there_is_room(steps: list[tuple[str, int | None]]) -> None:
    memory, expected = AnswerMemory(), OrderedDict[str, bytes]()
    for key, size in steps:
        if size is None:
            assert memory.recall(key) == expected.get(key)
            if key in expected:
                expected.move_to_end(key)
            continue
        memory.keep(key, bytes(size), 60, ROOM)
        expected.pop(key, None)
        expected[key] = bytes(size)
        while sum(len(answer) + _OVERHEAD_BYTES for answer in expected.values()) > ROOM:
            expected.popitem(last=False)
    assert {key: memory.recall(key) for key in "abcdef"} == {key: expected.get(key) for key in "abcdef"}
