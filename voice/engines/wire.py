"""What parent and child say to each other: a letter, the length of what follows in four bytes, and that."""

from __future__ import annotations

import struct
from typing import BinaryIO

HEADER = struct.Struct("<cI")
LONGEST = 4 << 20
"""Bytes of one message. A minute of sound is 1.9 MB."""


class Kind:
    """The letters. Every message to a child but `CANCEL` is answered; speech by many `AUDIO` and one `DONE`."""

    START = b"S"
    AUDIO = b"A"
    FINISH = b"F"
    CANCEL = b"C"
    PARTIAL = b"P"
    DONE = b"D"
    ERROR = b"E"
    READY = b"R"


def frame(kind: bytes, payload: bytes = b"") -> bytes:
    return HEADER.pack(kind, len(payload)) + payload


def read_frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """The next message from a blocking stream; ``None`` when it has ended."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    kind, length = HEADER.unpack(header)
    payload = stream.read(length)
    return None if len(payload) < length else (kind, payload)
