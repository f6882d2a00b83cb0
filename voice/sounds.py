"""Sound files in and out, by a child process."""

from __future__ import annotations

import io
import json
import wave
from concurrent.futures import Future
from typing import Any

from ops.contracts.problems import TooLarge, Unavailable, Unprocessable, UnsupportedMedia
from voice.engines.contracts import EngineBusyError, EngineCrashedError, EngineError
from voice.engines.wire import Kind
from voice.engines.workers import Child, Pool
from voice.wholeness import is_cut_off

PIECE = 1 << 20
PATIENCE_S = 120.0
FORMATS = ("wav", "ogg", "webm", "mp3", "flac")
MPEG_SYNC = 0xE0

pool = Pool("voice.engines.codec_child", size=1, longest_queue=16)


def format_of(data: bytes) -> str | None:
    """By its first bytes: one of `FORMATS`, or ``None``. What a caller calls it does not matter."""
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return "wav"
    if data[:4] == b"OggS":
        return "ogg"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    if data[:4] == b"fLaC":
        return "flac"
    if data[:3] == b"ID3" or (len(data) > 2 and data[0] == 0xFF and data[1] & MPEG_SYNC == MPEG_SYNC):
        return "mp3"
    return None


def decode(data: bytes, *, longest_bytes: int, longest_s: float) -> bytes:
    """Mono PCM16 at 16 kHz of a WAV, Ogg (Opus, Vorbis), WebM, MP3 or FLAC file.

    Raises `TooLarge`, `UnsupportedMedia`, `Unprocessable` (damaged, cut off, silent, too long) or `Unavailable`.
    """
    if len(data) > longest_bytes:
        raise TooLarge(f"A sound file may have {longest_bytes} bytes.")
    kind = format_of(data)
    if kind is None:
        raise UnsupportedMedia("Send WAV, Ogg Opus, WebM, MP3 or FLAC.", formats=list(FORMATS))
    if is_cut_off(kind, data):
        raise Unprocessable("The file ends before the sound that it announces: it is cut off.")
    return _result({"decode": kind, "longest_s": longest_s}, data)


def opus_of(pcm: bytes, rate_hz: int) -> bytes:
    """An Ogg Opus file of mono PCM16. Raises `Unavailable`."""
    return _result({"encode": "opus", "rate": rate_hz}, pcm)


def wav_of(pcm: bytes, rate_hz: int) -> bytes:
    """A WAV file of mono PCM16."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(pcm)
    return target.getvalue()


def _result(about: dict[str, Any], data: bytes) -> bytes:
    job = _Job(about, data)
    try:
        pool.submit(job)
        return job.done.result(PATIENCE_S)
    except EngineBusyError as error:
        raise Unavailable("Too many sound files are being read. Try again.", retry_after_s=2) from error
    except EngineCrashedError as error:
        raise Unprocessable("The file can't be read: whatever reads it gave up.") from error
    except EngineError as error:
        raise Unprocessable(str(error)) from error
    except TimeoutError as error:
        raise Unavailable("The file was not read in time.", retry_after_s=10) from error


class _Job:
    may_begin_again = False
    """A file that ended one process would end another."""

    def __init__(self, about: dict[str, Any], data: bytes) -> None:
        self.done: Future[bytes] = Future()
        self._about, self._data = about, data

    def serve(self, child: Child) -> None:
        child.send(Kind.START, json.dumps(self._about).encode())
        for start in range(0, len(self._data), PIECE):
            child.send(Kind.AUDIO, self._data[start : start + PIECE])
        child.send(Kind.FINISH)
        pieces: list[bytes] = []
        while True:
            kind, payload = child.receive()
            if kind == Kind.ERROR:
                raise EngineError(payload.decode(errors="replace"))
            if kind == Kind.DONE:
                break
            pieces.append(payload)
        self.done.set_result(b"".join(pieces))

    def fail(self, error: EngineError) -> None:
        self.done.set_exception(error)
