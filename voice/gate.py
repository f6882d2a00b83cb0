"""Where speech begins and pauses in a stream of frames: all transitions in one place.

             p ≥ 0.5, loud enough, in `START_FRAMES`
    SILENCE ─────────────────────────────────────────────────► SPEECH
            ◄─────────────────────────────────────────────────
             p < 0.35 in `PAUSE_FRAMES`

Both count frames in a row, and differ while the agent's voice is played. Then a frame has to be loud besides: at most
``echo_margin_db`` below what is played. The detector fires on the agent's own voice in the microphone down to 40 dB
below it. One frame before speech counts as begun it is suspected, which is enough to play softly; it is dismissed when
the next frame is none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from voice.engines.contracts import VoiceActivityDetector

SPEECH_AT = 0.5
SILENCE_BELOW = 0.35
START_FRAMES = 2
START_FRAMES_OVER_VOICE = 3
"""More where a false start costs the agent its voice: 106 ms after the onset, in the median."""
SUSPECT_FRAMES = 2
PAUSE_FRAMES = 6
"""192 ms: of 100 sentences one was cut in two by so short a pause, and it is put together again."""
PAUSE_FRAMES_OVER_VOICE = 4
"""Fewer where the agent goes on speaking until it is known what was said."""
PRE_ROLL_FRAMES = 12
QUIETEST_DB = -60.0
"""Below that level nothing is speech, whatever the detector says."""
FRAME_MS = 32


class Transition(StrEnum):
    STARTED = "started"
    PAUSED = "paused"
    SUSPECTED = "suspected"
    DISMISSED = "dismissed"


@dataclass(frozen=True, slots=True)
class Marked:
    """What a frame did. ``sound`` is what a recogniser is to be given now: of a start with what came just before it.

    ``silent_ms``: how long it has been silent, when it paused.
    """

    transition: Transition | None
    sound: bytes
    probability: float
    level_db: float
    silent_ms: int = 0
    clipped: float = 0.0
    """At a pause: which share of the speech before it was as loud as can be, which is louder than it can be heard."""


@dataclass(slots=True)
class SpeechGate:
    """Takes a stream in pieces of any size."""

    detector: VoiceActivityDetector
    echo_margin_db: float = 18.0
    is_open: bool = False
    _rest: bytearray = field(default_factory=bytearray)
    _before: deque[bytes] = field(default_factory=lambda: deque(maxlen=PRE_ROLL_FRAMES))
    _run: int = 0
    _quiet: int = 0
    _suspects: bool = False
    _samples: int = 0
    _clipped: int = 0

    def take(self, pcm: bytes, playing_db: float | None = None) -> list[Marked]:
        """Mark each whole frame. ``playing_db``: the level of what is being played, ``None`` for nothing."""
        self._rest += pcm
        size = self.detector.frame_samples * 2
        marked = []
        while len(self._rest) >= size:
            frame = bytes(self._rest[:size])
            del self._rest[:size]
            marked.append(self._mark(frame, playing_db))
        return marked

    def reset(self) -> None:
        """Forget what came before, as when the stream was interrupted."""
        self.detector.reset()
        self._rest.clear()
        self._before.clear()
        self.is_open, self._run, self._quiet, self._suspects = False, 0, 0, False

    def _mark(self, frame: bytes, playing_db: float | None) -> Marked:
        probability, level_db = self.detector(frame), level_of(frame)
        is_loud = level_db > QUIETEST_DB and (playing_db is None or level_db >= playing_db - self.echo_margin_db)
        if not self.is_open:
            self._run = self._run + 1 if probability >= SPEECH_AT and is_loud else 0
            if self._run >= (START_FRAMES if playing_db is None else START_FRAMES_OVER_VOICE):
                self.is_open, self._run, self._quiet, self._suspects = True, 0, 0, False
                self._samples = self._clipped = 0
                sound = b"".join([*self._before, frame])
                self._before.clear()
                return Marked(Transition.STARTED, sound, probability, level_db)
            self._before.append(frame)
            return Marked(self._suspicion(playing_db), b"", probability, level_db)
        self._samples += len(frame) // 2
        self._clipped += clipped_in(frame)
        self._quiet = self._quiet + 1 if probability < SILENCE_BELOW else 0
        if self._quiet >= (PAUSE_FRAMES if playing_db is None else PAUSE_FRAMES_OVER_VOICE):
            silent_ms = self._quiet * FRAME_MS
            self.is_open, self._quiet = False, 0
            return Marked(
                Transition.PAUSED, frame, probability, level_db, silent_ms, self._clipped / max(self._samples, 1)
            )
        return Marked(None, frame, probability, level_db)

    def _suspicion(self, playing_db: float | None) -> Transition | None:
        suspects = playing_db is not None and self._run >= SUSPECT_FRAMES
        if suspects == self._suspects or (self._run and not suspects):
            return None
        self._suspects = suspects
        return Transition.SUSPECTED if suspects else Transition.DISMISSED


def level_of(pcm: bytes) -> float:
    """The level in decibels relative to full scale; -120 for digital silence."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float32)
    power = float(np.mean(samples**2)) if samples.size else 0.0
    return 10 * float(np.log10(power / 32768**2)) if power > 0 else -120.0


def clipped_in(pcm: bytes) -> int:
    """How many samples are as loud as can be."""
    samples = np.frombuffer(pcm, "<i2")
    return int(np.count_nonzero((samples == 32767) | (samples == -32768)))
