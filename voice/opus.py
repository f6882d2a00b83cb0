"""Opus packets of a session, by libopus: one stream in each direction, mono.

A packet has no container around it, so that none of FFmpeg's readers of files sees what a stranger sends; those have a
process of their own (`voice.engines.codec_child`). PyAV is imported when the first session asks for Opus.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np

from voice.engines.contracts import SAMPLE_RATE_HZ

RATE_HZ = 48_000
"""Of what a packet holds; Opus counts in it whatever the sound was made at."""
PACKET_SAMPLES = 960
"""20 ms: what is sent. What is received may have from 2.5 to 120."""
LONGEST_PACKET = 1275 * 6
"""Bytes: six frames of 20 ms, each as large as one may be."""
BITS_PER_S = 32_000


class DamagedPacketError(Exception):
    """What came is no Opus packet."""


def is_installed() -> bool:
    return find_spec("av") is not None


class OpusDecoder:
    """Packets in, PCM16 at `SAMPLE_RATE_HZ` out."""

    def __init__(self) -> None:
        import av

        self._codec: Any = av.CodecContext.create("libopus", "r")
        self._codec.sample_rate, self._codec.layout = RATE_HZ, "mono"
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)

    def __call__(self, packet: bytes) -> bytes:
        """Raises `DamagedPacketError`; the stream goes on with the next packet."""
        import av

        if not 0 < len(packet) <= LONGEST_PACKET:
            raise DamagedPacketError("An Opus packet has from 1 to 7650 bytes.")
        try:
            frames = self._codec.decode(av.Packet(packet))
        except (av.FFmpegError, ValueError) as error:
            raise DamagedPacketError("That is no Opus packet.") from error
        return b"".join(_pcm(one) for frame in frames for one in self._resampler.resample(frame))


class OpusEncoder:
    """PCM16 at ``rate_hz`` in, packets of 20 ms out, each with what it holds as PCM16 at `RATE_HZ`."""

    def __init__(self, rate_hz: int) -> None:
        import av

        self.rate_hz = rate_hz
        self._codec: Any = av.CodecContext.create("libopus", "w")
        self._codec.sample_rate, self._codec.layout, self._codec.format = RATE_HZ, "mono", "s16"
        self._codec.bit_rate = BITS_PER_S
        self._codec.options = {"application": "voip", "frame_duration": "20"}
        self._codec.open()
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE_HZ)
        self._rest = b""

    def __call__(self, pcm: bytes, *, is_last: bool) -> list[tuple[bytes, bytes]]:
        """``is_last``: what is left over is filled up with silence, as nothing follows soon."""
        import av

        sound = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[np.newaxis], format="s16", layout="mono")
        sound.sample_rate = self.rate_hz
        self._rest += b"".join(_pcm(one) for one in self._resampler.resample(sound))
        size = 2 * PACKET_SAMPLES
        if is_last:
            self._rest += bytes(-len(self._rest) % size)
        made = []
        while len(self._rest) >= size:
            piece, self._rest = self._rest[:size], self._rest[size:]
            made += [(bytes(packet), piece) for packet in self._codec.encode(_frame(piece))]
        return made


def _frame(pcm: bytes) -> Any:
    import av

    frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2")[np.newaxis], format="s16", layout="mono")
    frame.sample_rate, frame.pts = RATE_HZ, None
    return frame


def _pcm(frame: Any) -> bytes:
    return bytes(frame.planes[0])[: frame.samples * 2]
