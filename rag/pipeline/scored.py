"""A query's candidates with their features and LTR scores: what the feature cache keeps, all that fusion needs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

import msgpack
import numpy as np

from rag.pipeline.types import Float32Array, Int32Array, Int64Array


@dataclass(frozen=True, slots=True)
class ScoredCandidates:
    """Arrays of one entry a candidate, ascending by chunk id; ``features`` has shape (n, features).

    ``ranker`` is the kind that scored; ``safeguard`` says why the simple ranker stood in, if it did.
    """

    chunk_ids: Int64Array
    document_ids: Int64Array
    distances: Float32Array
    dense_ranks: Int32Array
    lexical_ranks: Int32Array
    features: Float32Array
    ltr_scores: Float32Array
    ranker: str
    safeguard: str | None

    def to_bytes(self) -> bytes:
        """Self-describing and free of pickle: a cache that somebody else can write to can't run code here."""
        packed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            packed[field.name] = (
                (value.dtype.str, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
            )
        return bytes(msgpack.packb(packed))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        packed = msgpack.unpackb(data)
        for name, value in packed.items():
            if isinstance(value, list):
                dtype, shape, buffer = value
                packed[name] = np.frombuffer(buffer, dtype=dtype).reshape(shape)
        return cls(**packed)
