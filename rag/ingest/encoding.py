"""Bytes to text, and text to what can be stored: one place for encodings, control characters and NFC."""

from __future__ import annotations

import codecs
import contextlib
import math
import re
import unicodedata
from typing import Any

from rag.ingest.types import EmptyDocumentError, ParseError

# Longest marks first: the UTF-32 little-endian mark starts with the UTF-16 one.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

# charset-normalizer is quadratic at worst; the start of a file is enough to tell its encoding.
_DETECTION_BYTES = 64 * 1024
_ALIKE = 0.05

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# C0 and C1 controls but tab and newline, DEL, lone surrogates, and the two noncharacters of each plane's
# end in the BMP: PostgreSQL refuses NUL, UTF-8 refuses surrogates, and none of the others is text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
_INVISIBLE = {0xA0: " ", 0x202F: " ", 0xAD: None, 0x200B: None, 0x2060: None, 0xFEFF: None}


def decode(data: bytes, name: str, declared: str | None = None) -> str:
    """Decode a text file: byte order mark, then UTF-8, UTF-16 without a mark, `declared` encoding, then a guess.

    Raises `EmptyDocumentError` for no bytes and `ParseError` for bytes that are not text.
    """
    if not data.strip():
        raise EmptyDocumentError(f"{name} is empty; add text to it or leave it out.")
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decode_as(data, encoding, name)
    if b"\x00" in data[:4096]:
        guessed = _utf16_without_mark(data)
        if guessed is None:
            raise ParseError(
                f"{name} holds NUL bytes, so it is not text; save it as UTF-8 text or give it its proper extension."
            )
        return _decode_as(data, guessed, name)
    if b"\x00" in data:
        line = data.count(b"\n", 0, data.index(b"\x00")) + 1
        raise ParseError(f"{name} holds a NUL byte in line {line}; remove it or save the file as UTF-8 text.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        if declared is not None:
            with contextlib.suppress(UnicodeDecodeError, LookupError):
                return data.decode(declared)
        return _guess(data, name, error.start)


def clean(text: str) -> str:
    """`text` as it may be stored and searched: NFC, "\\n" line ends, nothing unprintable.

    Control characters, lone surrogates and no-break spaces become spaces; soft hyphens, zero-width spaces and byte
    order marks, which would hide inside words, go.
    """
    printable = _UNPRINTABLE.sub(" ", _LINE_ENDS.sub("\n", text))
    return unicodedata.normalize("NFC", printable.translate(_INVISIBLE))


def clean_json(value: Any) -> Any:
    """A JSON value as PostgreSQL can store it: strings without NUL and surrogates, no number that is not finite."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean_json(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [clean_json(member) for member in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _decode_as(data: bytes, encoding: str, name: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ParseError(
            f"{name} is marked as {encoding.upper()} and is not valid at byte {error.start}; save it again as UTF-8."
        ) from None
    if not text.strip():
        raise EmptyDocumentError(f"{name} is empty; add text to it or leave it out.")
    if "\x00" in text:
        raise ParseError(f"{name} holds NUL characters; remove them or save the file as UTF-8 text.")
    return text


def _utf16_without_mark(data: bytes) -> str | None:
    """UTF-16 text in a Latin script has a zero in every other byte, always on the same side."""
    head = data[:4096]
    even_zeros = head[0::2].count(0)
    odd_zeros = head[1::2].count(0)
    pairs = max(len(head) // 2, 1)
    if odd_zeros > 0.6 * pairs and even_zeros < 0.05 * pairs:
        return "utf-16-le"
    if even_zeros > 0.6 * pairs and odd_zeros < 0.05 * pairs:
        return "utf-16-be"
    return None


def _guess(data: bytes, name: str, first_bad_byte: int) -> str:
    from charset_normalizer import from_bytes  # slow to import, rarely needed

    start = max(first_bad_byte - _DETECTION_BYTES // 2, 0)
    matches = from_bytes(data[start : start + _DETECTION_BYTES])
    best = matches.best()
    # In text with few accents many encodings look alike; the one that most files are in is the better guess then.
    for match in matches:
        if best is not None and match.encoding == "cp1252" and match.chaos - best.chaos < _ALIKE:
            best = match if best.coherence - match.coherence < _ALIKE else best
    if best is not None:
        try:
            text = data.decode(best.encoding)
        except (UnicodeDecodeError, LookupError):
            text = ""
        controls = len(_UNPRINTABLE.findall(text[:_DETECTION_BYTES]))
        if text and controls * 50 < min(len(text), _DETECTION_BYTES):
            return text
    raise ParseError(
        f"{name} is not valid UTF-8 (byte {first_bad_byte}) nor any other known encoding; save it again as UTF-8."
    )
