"""Sound for tests: sentences spoken by flite (see README.md beside them), noise, tones, silence."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from voice.engines.contracts import BYTES_PER_MS, SAMPLE_RATE_HZ

SPOKEN = Path(__file__).with_name("spoken")


def pcm_of(name: str) -> bytes:
    """A spoken sentence, 16 kHz mono PCM16."""
    with wave.open(str(SPOKEN / f"{name}.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (SAMPLE_RATE_HZ, 1, 2)
        return file.readframes(file.getnframes())


def silence(duration_ms: int) -> bytes:
    return bytes(duration_ms * BYTES_PER_MS)


def noise(duration_ms: int, level_db: float = -30.0, seed: int = 7) -> bytes:
    """White noise of that level, relative to full scale."""
    generator = np.random.default_rng(seed)
    samples = generator.normal(0.0, 32768 * 10 ** (level_db / 20), duration_ms * SAMPLE_RATE_HZ // 1000)
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()


def tone(duration_ms: int, hertz: float = 440.0, level_db: float = -12.0) -> bytes:
    at = np.arange(duration_ms * SAMPLE_RATE_HZ // 1000) / SAMPLE_RATE_HZ
    return (np.sin(2 * np.pi * hertz * at) * 32767 * 10 ** (level_db / 20)).astype("<i2").tobytes()


def frames(pcm: bytes, samples: int = 512) -> Iterator[bytes]:
    """Whole frames; what is left over at the end is dropped."""
    size = samples * 2
    for start in range(0, len(pcm) - size + 1, size):
        yield pcm[start : start + size]


def music(duration_ms: int) -> bytes:
    """Chords of plucked strings over a beat, four a second."""
    at = np.arange(duration_ms * SAMPLE_RATE_HZ // 1000) / SAMPLE_RATE_HZ
    beat = np.exp(-6 * (at % 0.25))
    steps = np.array([0, 4, 7, 12, 16])
    roots = 220 * 2 ** (np.array([0, 5, 7, 3])[(at * 2).astype(int) % 4] / 12)
    strings = sum(np.sin(2 * np.pi * np.cumsum(roots * 2 ** (step / 12)) / SAMPLE_RATE_HZ) for step in steps)
    drum = np.random.default_rng(3).normal(0, 1, at.size) * np.exp(-40 * (at % 0.5))
    return (np.clip(0.08 * strings * beat + 0.1 * drum, -1, 1) * 32767).astype("<i2").tobytes()
