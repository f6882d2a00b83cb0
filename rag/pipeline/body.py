"""The part of an answer that the response cache keeps, in the form in which it is sent: it is encoded once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import msgpack


class Shown(NamedTuple):
    """One passage of an answer, as impressions record it; in the order of the columns of `rag.models.Impression`."""

    position: int
    chunk_id: int
    document_id: str
    content_hash: str
    start: int
    end: int
    fused_score: float


@dataclass(frozen=True, slots=True)
class Body:
    """``results``: a JSON array, of which ``shown`` has one entry each, best first."""

    results: bytes
    shown: Sequence[Shown]
    ranker: str
    safeguard: str | None

    def to_bytes(self) -> bytes:
        """Free of pickle: a cache that somebody else can write to can't run code here."""
        return bytes(msgpack.packb((self.results, self.shown, self.ranker, self.safeguard)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        results, shown, ranker, safeguard = msgpack.unpackb(data)
        return cls(results, [Shown(*one) for one in shown], ranker, safeguard)

    def within(self, envelope: Mapping[str, Any]) -> bytes:
        """The JSON of an envelope, whose ``results`` are an empty list, with the results in their place."""
        # A quotation mark within a text is written as an escape, so that no text holds this.
        return encode(envelope).replace(_EMPTY, b'"results":' + self.results, 1)


_EMPTY = b'"results":[]'


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8. NaN and infinities raise ``ValueError``."""
    return _compact(value).encode()


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
