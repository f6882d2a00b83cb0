"""Whether each part of the voice agent works, and how fast it is: tried for real, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ops.contracts.problems import Problem
from voice import installed, sounds
from voice.engines.contracts import BYTES_PER_MS, EngineError
from voice.turns.interruptions import Moment

SENTENCE = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True, slots=True)
class Part:
    """``what`` is what was measured, or what failed; ``next`` what to do about it."""

    name: str
    works: bool
    what: str
    next: str = ""


def examine() -> list[Part]:
    """Try everything. Takes some seconds, as the processes of the engines are started, and ended again."""
    try:
        return [
            _tried("voice activity", _voice_activity, "Install it: .venv/bin/pip install silero-vad."),
            _tried("speech to text", _speech_to_text, "Install it: .venv/bin/pip install pocketsphinx."),
            _tried("text to speech", _text_to_speech, "Install it: .venv/bin/pip install espeakng-loader."),
            _tried("interruptions", _interruptions, "`manage.py seed` provides the model that ships."),
            _tried("sound files", _sound_files, "Install it: .venv/bin/pip install av."),
        ]
    finally:
        installed.close_engines()
        sounds.pool.close()


def _tried(name: str, work: Callable[[], str], remedy: str) -> Part:
    try:
        return Part(name, True, work())
    except (EngineError, Problem, OSError, ValueError) as error:
        return Part(name, False, str(error), remedy)


def _voice_activity() -> str:
    detector = installed.voice_activity()
    frame = bytes(2 * detector.frame_samples)
    detector(frame)
    started = time.perf_counter()
    for _ in range(100):
        detector(frame)
    return f"{(time.perf_counter() - started) * 10:.2f} ms for a frame of 32 ms"


def _speech_to_text() -> str:
    heard = installed.speech_to_text()
    heard.engine.warm_up()
    pieces: list[bytes] = []
    spoken = installed.text_to_speech()
    spoken.engine.speak(SENTENCE, pieces.append).done.result()
    pcm = sounds.decode(
        sounds.wav_of(b"".join(pieces), spoken.engine.sample_rate_hz), longest_bytes=1 << 22, longest_s=30
    )
    started = time.perf_counter()
    recognition = heard.engine.start(lambda transcript: None)
    recognition.feed(pcm)
    recognition.finish().result()
    share = (time.perf_counter() - started) * 1000 / (len(pcm) / BYTES_PER_MS)
    # The one voice that is always here, and hard to hear: 79 % of its words are misheard.
    return f"{heard.label}: {share:.2f} s for a second of eSpeak's voice, {installed.stt_processes()} at a time"


def _text_to_speech() -> str:
    spoken = installed.text_to_speech()
    spoken.engine.warm_up()
    at: list[float] = []
    started = time.perf_counter()
    spoken.engine.speak(f"{SENTENCE} {started}", lambda pcm: at.append(time.perf_counter())).done.result()
    return f"{spoken.label}: first sound after {(at[0] - started) * 1000:.0f} ms, {len(spoken.engine.voices())} voices"


def _interruptions() -> str:
    judge = installed.judge_of_interruptions()
    started = time.perf_counter()
    kind = judge.judge(Moment("wait which one"))
    how = "the trained model" if judge.name != "rules" else "rules, as no model is live"
    return f"{how}: 'wait which one' is a {kind.value}, after {(time.perf_counter() - started) * 1000:.1f} ms"


def _sound_files() -> str:
    pcm = bytes(32_000)
    opus = sounds.opus_of(pcm, 16_000)
    sounds.decode(opus, longest_bytes=1 << 20, longest_s=5)
    return f"{', '.join(sounds.FORMATS)} are read"
