"""What features are computed from, of chunks that were candidates lately, in this process's memory.

Nothing of a chunk ever changes: a document that changes gets other chunks, under ids that are never used again. So
what was read of a chunk stays true for as long as it is found.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

from rag.pipeline.types import Float32Array, Int32Array

_OVERHEAD_BYTES = 500
"""Of a passage besides its numbers: measured, of two arrays, an object and their place in a dictionary."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A chunk. tokens: int32, shape (positions,); embedding: float32, shape (dimension,), None outside the space."""

    document_id: int
    title_length: int
    tokens: Int32Array
    embedding: Float32Array | None

    @property
    def size_bytes(self) -> int:
        vector_bytes = 0 if self.embedding is None else self.embedding.nbytes
        return self.tokens.nbytes + vector_bytes + _OVERHEAD_BYTES


class PassageMemory:
    """Passages by space and chunk, at most ``capacity_bytes``: those that were used last. For any thread.

    They are kept in two halves. When the newer is full, it becomes the older one, and what the older one held until
    then is forgotten, except for what was used meanwhile, which has moved to the newer.
    """

    def __init__(self) -> None:
        self._newer: dict[tuple[int, int], Passage] = {}
        self._older: dict[tuple[int, int], Passage] = {}
        self._newer_bytes = 0
        self._lock = threading.Lock()

    def recall(self, space_id: int, chunk_ids: Iterable[int], capacity_bytes: int) -> dict[int, Passage]:
        """Those that are known, by chunk id."""
        newer, older = self._newer, self._older
        found, moved = {}, {}
        for chunk_id in chunk_ids:
            passage = newer.get((space_id, chunk_id))
            if passage is None:
                passage = older.get((space_id, chunk_id))
                if passage is None:
                    continue
                moved[chunk_id] = passage
            found[chunk_id] = passage
        if moved:
            self.keep(space_id, moved, capacity_bytes)
        return found

    def keep(self, space_id: int, passages: dict[int, Passage], capacity_bytes: int) -> None:
        """Remember passages by chunk id; one without a vector is not, as it may get one."""
        with self._lock:
            for chunk_id, passage in passages.items():
                if passage.embedding is None or (space_id, chunk_id) in self._newer:
                    continue
                self._newer[space_id, chunk_id] = passage
                self._newer_bytes += passage.size_bytes
                if self._newer_bytes > capacity_bytes / 2:
                    self._older, self._newer, self._newer_bytes = self._newer, {}, 0

    def forget(self) -> None:
        with self._lock:
            self._newer, self._older, self._newer_bytes = {}, {}, 0


memory = PassageMemory()
"""Of this process."""
