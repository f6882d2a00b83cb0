"""The process in which sound files are read and made: a hostile one costs its owner an error and nobody else anything.

START {"decode": format, "longest_s": …} or {"encode": "opus", "rate": …} with AUDIO behind it is answered by DONE with
the result, or by ERROR with a sentence for whoever sent the file.
"""

from __future__ import annotations

import io
import json
import resource
import sys
from typing import Any

from voice.engines.contracts import SAMPLE_RATE_HZ
from voice.engines.wire import Kind, frame, read_frame

MEMORY_BYTES = 2 << 30
CPU_S = 300
"""Of the whole process; then it is replaced."""
DEMUXERS = {"wav": "wav", "ogg": "ogg", "webm": "matroska", "mp3": "mp3", "flac": "flac"}
OPUS_RATE_HZ = 48_000
MISSING_S = 0.1
"""Sound that a whole file may lack, for rounding and what a resampler keeps."""


class RefusedError(Exception):
    """The file can't be used. The message says why."""


def decode(data: bytes, kind: str, longest_s: float) -> bytes:
    """16 kHz mono PCM16. The demuxer is the one of the format and no other: some of the others open further files."""
    import av
    from av.audio.resampler import AudioResampler

    pieces: list[bytes] = []
    taken = 0
    most = int(longest_s * SAMPLE_RATE_HZ) * 2
    resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)

    def take(frames: list[Any]) -> None:
        nonlocal taken
        for one in frames:
            piece = bytes(one.planes[0])[: one.samples * 2]
            pieces.append(piece)
            taken += len(piece)
        if taken > most:
            raise RefusedError(f"The sound is longer than {longest_s:g} s.")

    try:
        with av.open(io.BytesIO(data), mode="r", format=DEMUXERS[kind], metadata_errors="replace") as container:
            if not container.streams.audio:
                raise RefusedError("There is no sound in the file.")
            for decoded in container.decode(container.streams.audio[0]):
                take(resampler.resample(decoded))
            take(resampler.resample(None))
            _require_all(kind, container.streams.audio[0], taken)
    except (av.FFmpegError, ValueError, OverflowError, EOFError) as error:
        raise RefusedError(f"The file can't be read as {kind}: it is damaged or cut off.") from error
    if not taken:
        raise RefusedError("There is no sound in the file.")
    return b"".join(pieces)


def _require_all(kind: str, stream: Any, taken: int) -> None:
    """A FLAC file says how long it is."""
    if kind == "flac" and stream.duration:
        announced_s = float(stream.duration * stream.time_base)
        if taken / 2 / SAMPLE_RATE_HZ < announced_s - MISSING_S:
            raise RefusedError("The file ends before the sound that it announces: it is cut off.")


def encode(pcm: bytes, rate: int) -> bytes:
    """Opus in Ogg, of mono PCM16 at ``rate``."""
    import av
    import numpy as np

    target = io.BytesIO()
    with av.open(target, mode="w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE_HZ, layout="mono", options={"b": "32k"})
        sound = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[np.newaxis], format="s16", layout="mono")
        sound.sample_rate = rate
        resampler = av.AudioResampler(format="s16", layout="mono", rate=OPUS_RATE_HZ)
        for one in [*resampler.resample(sound), *resampler.resample(None)]:
            container.mux(stream.encode(one))
        container.mux(stream.encode(None))
    return target.getvalue()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, payload: bytes = b"") -> None:
        sink.write(frame(kind, payload))
        sink.flush()

    say(Kind.READY)
    while (message := read_frame(source)) is not None:
        about = json.loads(message[1])
        data = bytearray()
        while (message := read_frame(source)) is not None and message[0] == Kind.AUDIO:
            data += message[1]
        try:
            if "decode" in about:
                result = decode(bytes(data), about["decode"], about["longest_s"])
            else:
                result = encode(bytes(data), about["rate"])
        except (RefusedError, MemoryError) as error:
            say(Kind.ERROR, (str(error) or "The file needs too much memory.").encode())
        except ImportError:
            say(Kind.ERROR, b"PyAV is not installed: .venv/bin/pip install av.")
        else:
            for start in range(0, len(result), 1 << 20):
                say(Kind.AUDIO, result[start : start + (1 << 20)])
            say(Kind.DONE)


if __name__ == "__main__":
    main()
