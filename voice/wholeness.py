"""Whether a sound file has all the bytes that it announces: one that was cut off would be heard as half a question.

A file that was written while it was recorded announces nothing, and is taken as it is. So is FLAC here: its samples are
counted when it is decoded.
"""

from __future__ import annotations

STREAMED = 0x7FFF_0000
"""From this length on a WAV file's header means that nobody knew when it was written."""
OGG_HEADER = 27
OGG_LAST_PAGE = 0x04
EBML_SEGMENT = b"\x18\x53\x80\x67"
EBML_HEADER_BYTES = 256
MP3_TAG_BYTES = 256
XING_FRAMES, XING_BYTES = 0x01, 0x02


def is_cut_off(kind: str, data: bytes) -> bool:
    """``kind`` is one of `voice.sounds.FORMATS`."""
    checks = {"wav": _wav, "ogg": _ogg, "webm": _webm, "mp3": _mp3}
    return kind in checks and checks[kind](data)


def _wav(data: bytes) -> bool:
    announced = int.from_bytes(data[4:8], "little")
    return len(data) - 8 < announced < STREAMED


def _ogg(data: bytes) -> bool:
    """The last page must be there as a whole and say that it is the last: RFC 3533, 6."""
    at = data.rfind(b"OggS")
    if len(data) < at + OGG_HEADER:
        return True
    segments = data[at + OGG_HEADER - 1]
    lengths = data[at + OGG_HEADER : at + OGG_HEADER + segments]
    is_whole = len(data) >= at + OGG_HEADER + segments + sum(lengths)
    return not is_whole or not data[at + 5] & OGG_LAST_PAGE


def _webm(data: bytes) -> bool:
    """The size of the segment, where it is known: RFC 8794, 6.2."""
    at = data[:EBML_HEADER_BYTES].find(EBML_SEGMENT)
    if at < 0 or len(data) < at + 5 or not data[at + 4]:
        return False
    length = 9 - data[at + 4].bit_length()
    size = int.from_bytes(data[at + 4 : at + 4 + length], "big") & ((1 << 7 * length) - 1)
    return size != (1 << 7 * length) - 1 and len(data) < at + 4 + length + size


def _mp3(data: bytes) -> bool:
    """The bytes that a Xing or Info tag in the first frame counts, where there is one."""
    start = 0
    if data[:3] == b"ID3" and len(data) > 10:
        start = 10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(data[6:10]))
    head = data[start : start + MP3_TAG_BYTES]
    at = max(head.find(b"Xing"), head.find(b"Info"))
    if at < 0:
        return False
    flags = int.from_bytes(head[at + 4 : at + 8], "big")
    place = at + 8 + (4 if flags & XING_FRAMES else 0)
    announced = int.from_bytes(head[place : place + 4], "big") if flags & XING_BYTES else 0
    return len(data) - start < announced
