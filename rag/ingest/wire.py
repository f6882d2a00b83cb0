"""What the parsing child and its parent say to each other: length-prefixed frames of JSON and bytes, no pickle.

A frame is two big-endian 32-bit lengths, a JSON header and a body. The first frame of a child, empty, says that it is
ready. Then each request (header: name, media type, limits, fields; body: the file) has one reply (header: outcome;
body: the documents as JSON).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rag.ingest.types import (
    Block,
    BlockKind,
    EmptyDocumentError,
    IngestError,
    JsonlFields,
    ParsedDocument,
    ParseError,
    ParseLimitError,
    ParseLimits,
    ParseRequest,
    UnsupportedFormatError,
)

_LENGTHS = struct.Struct(">II")
_MAX_HEADER_BYTES = 1 << 20

Header = dict[str, Any]
ReadExactly = Callable[[int], bytes | bytearray]
"""Reads so many bytes or raises EOFError."""

_ERRORS: dict[str, type[IngestError]] = {
    error.__name__: error for error in (UnsupportedFormatError, ParseError, EmptyDocumentError)
}


class ReplyTooLargeError(Exception):
    """The other side announces more than it may send."""


def frame(header: Header, body: bytes = b"") -> bytes:
    """The bytes of one frame without its body, which is sent after it to spare a copy."""
    encoded = json.dumps(header).encode()
    return _LENGTHS.pack(len(encoded), len(body)) + encoded


def read_frame(read_exactly: ReadExactly, max_body_bytes: int) -> tuple[Header, bytes]:
    """One frame. Raises EOFError, `ReplyTooLargeError`, ValueError for what is no frame."""
    header_length, body_length = _LENGTHS.unpack(read_exactly(_LENGTHS.size))
    if header_length > _MAX_HEADER_BYTES or body_length > max_body_bytes:
        raise ReplyTooLargeError
    header = json.loads(bytes(read_exactly(header_length)))
    return header, bytes(read_exactly(body_length))


def request_header(request: ParseRequest) -> Header:
    return {
        "name": request.name,
        "media_type": request.media_type,
        "limits": asdict(request.limits),
        "jsonl": asdict(request.jsonl),
    }


def request_of(header: Header, data: bytes) -> ParseRequest:
    jsonl = header["jsonl"] | {"identifier": tuple(header["jsonl"]["identifier"])}
    return ParseRequest(
        data, header["name"], header["media_type"], ParseLimits(**header["limits"]), JsonlFields(**jsonl)
    )


def encode_documents(documents: Sequence[ParsedDocument]) -> bytes:
    plain = [
        {
            "title": document.title,
            "text": document.text,
            "media_type": document.media_type,
            "metadata": document.metadata,
            "identifier": document.identifier,
            "blocks": [
                [block.kind.value, block.start, block.end, block.level, block.page, block.symbol]
                for block in document.blocks
            ],
        }
        for document in documents
    ]
    return json.dumps(plain, ensure_ascii=False, allow_nan=False).encode()


def decode_documents(body: bytes) -> list[ParsedDocument]:
    """Raises ValueError, KeyError or TypeError for what no honest child sends."""
    return [
        ParsedDocument(
            title=plain["title"],
            text=plain["text"],
            media_type=plain["media_type"],
            metadata=plain["metadata"],
            identifier=plain["identifier"],
            blocks=tuple(
                Block(BlockKind(kind), start, end, level, page, tuple(symbol))
                for kind, start, end, level, page, symbol in plain["blocks"]
            ),
        )
        for plain in json.loads(body)
    ]


def error_header(error: IngestError) -> Header:
    kind = error.kind if isinstance(error, ParseLimitError) else None
    return {"error": type(error).__name__, "message": str(error), "kind": kind}


def error_of(header: Header) -> IngestError:
    if header.get("kind"):
        return ParseLimitError(header["message"], header["kind"])
    return _ERRORS.get(header["error"], ParseError)(header["message"])
