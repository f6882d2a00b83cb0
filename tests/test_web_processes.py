"""How many web processes start where nobody says."""

from __future__ import annotations

import pytest

from zenglow_site import web_processes as module
from zenglow_site.web_processes import MEMORY_EACH_BYTES, MOST, web_processes


@pytest.mark.parametrize(
    ("processors", "memory", "expected"),
    [(1, 100, 1), (2, 100, 2), (3, 100, 3), (64, 100, MOST), (8, 0, 1), (8, 1, 1), (8, 2, 2)],
)
def test_as_many_as_the_machine_has_processors_and_memory_for(
    monkeypatch: pytest.MonkeyPatch, processors: int, memory: int, expected: int
) -> None:
    monkeypatch.setattr(module, "processors", lambda: processors)
    monkeypatch.setattr(module, "memory_bytes", lambda: memory * MEMORY_EACH_BYTES)
    assert web_processes(0, share_an_address=True) == expected
    # Where several can't listen, one does.
    assert web_processes(0, share_an_address=False) == 1


@pytest.mark.parametrize("asked", [1, 7, 64])
def test_what_is_asked_for_is_what_starts(asked: int) -> None:
    assert web_processes(asked, share_an_address=True) == asked
