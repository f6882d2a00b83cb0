"""The part of an answer that the response cache keeps, in the form in which it is sent: it is encoded once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, overload

import msgpack
import orjson


class Shown(NamedTuple):
    """One passage of an answer, as impressions record it; in the order of the columns of `rag.models.Impression`."""

    position: int
    chunk_id: int
    document_id: str
    content_hash: str
    start: int
    end: int
    fused_score: float


class PackedShown(Sequence[Shown]):
    """Passages as they were packed. They are unpacked when looked into, which the log does behind the answer."""

    __slots__ = ("_count", "_packed", "_unpacked")

    def __init__(self, packed: bytes, count: int) -> None:
        self._packed, self._count = packed, count
        self._unpacked: list[Shown] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Shown: ...
    @overload
    def __getitem__(self, index: slice) -> list[Shown]: ...
    def __getitem__(self, index: int | slice) -> Shown | list[Shown]:
        if self._unpacked is None:
            self._unpacked = [Shown(*one) for one in msgpack.unpackb(self._packed)]
        return self._unpacked[index]


@dataclass(frozen=True, slots=True)
class Body:
    """``results``: a JSON array, of which ``shown`` has one entry each, best first. ``top_score``: the first's."""

    results: bytes
    shown: Sequence[Shown]
    ranker: str
    safeguard: str | None
    top_score: float | None

    @classmethod
    def of(cls, results: bytes, shown: Sequence[Shown], ranker: str, safeguard: str | None) -> Self:
        return cls(results, shown, ranker, safeguard, shown[0].fused_score if shown else None)

    def to_bytes(self) -> bytes:
        """Free of pickle: a cache that somebody else can write to can't run code here."""
        shown = msgpack.packb(list(self.shown))
        return bytes(msgpack.packb((self.results, shown, len(self.shown), self.ranker, self.safeguard, self.top_score)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        results, shown, count, ranker, safeguard, top_score = msgpack.unpackb(data)
        return cls(results, PackedShown(shown, count), ranker, safeguard, top_score)

    def within(self, envelope: Mapping[str, Any]) -> bytes:
        """The JSON of an envelope, whose ``results`` are an empty list, with the results in their place."""
        # A quotation mark within a text is written as an escape, so that no text holds this.
        return encode(envelope).replace(_EMPTY, b'"results":' + self.results, 1)


_EMPTY = b'"results":[]'


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8. There must be no NaN in it, nor an infinity: fusion refuses scores that are."""
    try:
        return orjson.dumps(value)
    except TypeError:  # whole numbers of more than 64 bits, which a document's metadata may hold
        return _compact(value).encode()


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
