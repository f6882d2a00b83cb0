"""A process searches with its share of the processors, and computes in turns where it has several."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from rag.pipeline import processors
from rag.pipeline.processors import own_processors, turn
from rag.spaces import query_sharing
from tests.patience import PATIENCE_S


@pytest.mark.parametrize(
    ("machine", "processes", "share"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (8, 3, 2), (2, 4, 1), (64, 1, 64)]
)
def test_web_processes_divide_the_processors_and_each_embeds_on_its_share(
    machine: int, processes: int, share: int, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "PROCESSORS", machine)
    settings.ZENGLOW_WEB_PROCESSES = processes
    assert own_processors() == share
    settings.RAG_EMBED_PASSES, settings.RAG_EMBED_THREADS = 0, 1
    assert query_sharing().passes == share
    settings.RAG_EMBED_THREADS = 2
    assert query_sharing().passes == max(share // 2, 1)
    settings.RAG_EMBED_PASSES = 3
    assert query_sharing().passes == 3


@pytest.mark.parametrize(("machine", "together"), [(1, True), (2, False)])
def test_threads_take_turns_only_where_they_have_several_processors(
    machine: int, together: bool, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processors, "PROCESSORS", machine)
    settings.ZENGLOW_WEB_PROCESSES = 1
    begun = Event()

    def compute() -> None:
        with turn():
            begun.set()

    with ThreadPoolExecutor(1) as threads:
        with turn():
            other = threads.submit(compute)
            assert begun.wait(PATIENCE_S if together else 0.2) is together
        other.result(PATIENCE_S)
    assert begun.is_set()
