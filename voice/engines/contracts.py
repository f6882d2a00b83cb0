"""What an engine has to do, whichever it is.

EngineError
├── EngineMissingError   not installed, or its files are not there: the message says what to install
├── EngineCrashedError   its process ended or went silent; the next call gets a new one
└── EngineBusyError      more is waiting than may wait

Sound goes in as mono PCM of 16 bits, little endian, at `SAMPLE_RATE_HZ`. An engine is used from any thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

SAMPLE_RATE_HZ = 16_000
"""Of everything that is listened to."""
BYTES_PER_SAMPLE = 2
BYTES_PER_MS = SAMPLE_RATE_HZ * BYTES_PER_SAMPLE // 1000


class EngineError(Exception):
    """An engine can't do what it was asked for. The message is one sentence for an operator."""


class EngineMissingError(EngineError):
    """It is not installed, or its files are not there."""


class EngineCrashedError(EngineError):
    """Its process ended, or answered nothing for too long."""


class EngineBusyError(EngineError):
    """More is waiting for it than may wait."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it was heard, with its place in the sound. ``confidence`` is the engine's own, in [0, 1]."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard so far. A partial one has no words and may be taken back by the next.

    ``processing_ms``: what the engine computed for it; of a final one, from the end of the sound on. ``speaker`` is
    what the engine learned about the speaker's sound, for the next `SpeechToText.start`; empty when it learned nothing.
    """

    text: str
    is_final: bool
    language: str = "en"
    confidence: float = 0.0
    words: tuple[Word, ...] = ()
    audio_ms: int = 0
    processing_ms: float = 0.0
    speaker: str = ""


class Recognition(Protocol):
    """One stretch of speech that is being listened to."""

    def feed(self, pcm: bytes) -> None:
        """The next sound. Never waits; raises `EngineBusyError` when the engine is hopelessly behind."""

    def finish(self) -> Future[Transcript]:
        """That was all. The future has the final transcript, or an `EngineError`."""

    def cancel(self) -> None:
        """Nobody wants to know any more."""


class VocabularyKind(StrEnum):
    """What an engine takes of a collection, for its words to be expected."""

    LANGUAGE_MODEL = "language model"
    HOT_WORDS = "hot words"


class SpeechToText(Protocol):
    """Hears."""

    name: str
    vocabulary_kind: VocabularyKind

    def start(
        self, on_partial: Callable[[Transcript], None], vocabulary: Path | None = None, *, speaker: str = ""
    ) -> Recognition:
        """Listen. ``on_partial`` is called on a thread of the engine's whenever the transcript has changed.

        ``vocabulary``: what `voice.vocabulary` made of a collection, for the engine to prefer. ``speaker``: what an
        earlier transcript of the same person brought; nothing of one person is kept for another.
        """

    def prepare(self, vocabulary: Path | None) -> None:
        """Somebody is about to speak: have its processes load what takes time. Never waits, never raises."""

    def warm_up(self) -> None:
        """Wait until it could answer at once. Raises `EngineError`."""

    def close(self) -> None:
        """End its processes; it may be used again afterwards."""


class Style(StrEnum):
    """In which manner something is said."""

    ANALYTICAL = "analytical"
    TEACHING = "teaching"
    EXPLAINING = "explaining"
    ENCOURAGING = "encouraging"


@dataclass(frozen=True, slots=True)
class Manner:
    """What a `Style` means to an engine. ``rate`` and ``pitch`` are factors, 1 being the voice's own.

    ``pitch_range`` is a factor too: below 1 flat, above lively. ``pause_ms`` is the silence after a sentence.
    """

    rate: float
    pitch: float
    pitch_range: float
    pause_ms: int


MANNERS = {
    Style.ANALYTICAL: Manner(rate=1.0, pitch=0.92, pitch_range=0.8, pause_ms=160),
    Style.TEACHING: Manner(rate=0.88, pitch=1.0, pitch_range=1.1, pause_ms=320),
    Style.EXPLAINING: Manner(rate=0.95, pitch=0.97, pitch_range=1.0, pause_ms=220),
    Style.ENCOURAGING: Manner(rate=1.02, pitch=1.1, pitch_range=1.35, pause_ms=180),
}


class Utterance(Protocol):
    """Something that is being said."""

    done: Future[None]
    """Ends when all of its sound was handed over, or it was cancelled; or has an `EngineError`."""

    def cancel(self) -> None:
        """Stop in the middle. No sound is handed over once this has returned."""


class TextToSpeech(Protocol):
    """Speaks."""

    name: str
    sample_rate_hz: int

    def voices(self) -> Sequence[str]:
        """The names of its voices, the default first."""

    def speak(
        self, text: str, on_audio: Callable[[bytes], None], *, style: Style = Style.EXPLAINING, voice: str = ""
    ) -> Utterance:
        """Say ``text``: a sentence or two, of at most `LONGEST_TEXT` characters (else `ValueError`).

        ``on_audio`` is called with mono PCM of 16 bits at `sample_rate_hz`, on a thread of the engine's, as it comes.
        """

    def warm_up(self) -> None:
        """Wait until it could speak at once. Raises `EngineError`."""

    def close(self) -> None:
        """End its processes; it may be used again afterwards."""


LONGEST_TEXT = 1000
"""Characters that `TextToSpeech.speak` takes at once."""


class VoiceActivityDetector(Protocol):
    """Says of each frame how likely somebody speaks in it. One for each stream: it remembers what came before."""

    frame_samples: int

    def __call__(self, frame: bytes) -> float:
        """The probability of speech, in [0, 1], of exactly `frame_samples` samples."""

    def reset(self) -> None:
        """Forget what came before."""
