"""Sound as Opus packets: it arrives as it was, and what is no packet does no harm."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.voice.sounds import frames, pcm_of
from voice.opus import LONGEST_PACKET, PACKET_SAMPLES, DamagedPacketError, OpusDecoder, OpusEncoder


def test_speech_arrives_in_a_tenth_of_the_bytes() -> None:
    pcm = pcm_of("slow-queries")
    encode, decode = OpusEncoder(16_000), OpusDecoder()
    made = [one for frame in frames(pcm) for one in encode(frame, is_last=False)] + encode(b"\0\0", is_last=True)
    assert all(len(heard) == 2 * PACKET_SAMPLES for _, heard in made)
    assert sum(len(packet) for packet, _ in made) < len(pcm) / 7
    came = np.frombuffer(b"".join(decode(packet) for packet, _ in made), "<i2").astype(np.float64)
    sent = np.frombuffer(pcm, "<i2").astype(np.float64)
    assert len(came) == pytest.approx(len(sent), abs=1600)
    # The codec delays by some milliseconds; at the best shift the two are nearly the same.
    length = min(len(came), len(sent)) - 400
    likeness = max(np.corrcoef(came[shift : shift + length], sent[:length])[0, 1] for shift in range(0, 400, 4))
    assert likeness > 0.8


def test_after_a_damaged_packet_the_next_is_heard() -> None:
    encode, decode = OpusEncoder(16_000), OpusDecoder()
    packets = [packet for packet, _ in encode(pcm_of("slow-queries")[:32_000], is_last=True)]
    assert decode(packets[0]) is not None
    for damaged in (b"", b"\xff" * 3, bytes(LONGEST_PACKET + 1)):
        with pytest.raises(DamagedPacketError):
            decode(damaged)
    assert len(decode(packets[1])) == 640


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=200), max_size=5))
def test_any_bytes_are_sound_or_refused(packets: list[bytes]) -> None:
    decode = OpusDecoder()
    for packet in packets:
        with suppress(DamagedPacketError):
            assert len(decode(packet)) <= 2 * 16 * 125
