"""Whether each part of the voice agent works, and how fast it is: tried for real, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec

from django.conf import settings

from models_registry import artifacts, deployments
from models_registry.live import not_deployed
from models_registry.models import ModelKind, ModelVersion, Slot, VersionStatus
from models_registry.versions import newest_or
from ops.contracts.problems import Problem
from voice import installed, sounds
from voice.engines import espeak, piper, whisper
from voice.engines.contracts import BYTES_PER_MS, EngineError
from voice.engines.speaking import SpeakingPool
from voice.turns.interruptions import Moment

SENTENCE = "The quick brown fox jumps over the lazy dog."
OPTIONAL = {
    Slot.STT: (whisper.NAME, "faster_whisper", "whisper"),
    Slot.TTS: (piper.NAME, "piper", "piper"),
}
"""Engines that are an optional part: by slot their name, their module and their requirements."""


class State(StrEnum):
    """``ABSENT`` is what nobody asked for."""

    WORKS = "works"
    FAILS = "fails"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Part:
    """``what`` is what was measured, or what failed; ``next`` what to do about it."""

    name: str
    state: State
    what: str
    next: str = ""


def examine() -> Iterator[Part]:
    """Try everything. Takes some seconds, as the processes of the engines are started, and ended again."""
    try:
        yield _tried("voice activity", _voice_activity, "Install it: .venv/bin/pip install silero-vad.")
        yield from _engines(Slot.STT, _hears)
        yield from _engines(Slot.TTS, _speaks)
        yield _tried("wake word", _wake_word, "Choose another VOICE_WAKE_PHRASE.")
        yield _tried("interruptions", _interruptions, "`manage.py seed` provides the model that ships.")
        yield _tried("sound files", _sound_files, "Install it: .venv/bin/pip install av.")
    finally:
        installed.close_engines()
        sounds.pool.close()


def _tried(name: str, work: Callable[[], str], remedy: str) -> Part:
    try:
        return Part(name, State.WORKS, work())
    except (EngineError, Problem, artifacts.ArtifactError, OSError, ValueError) as error:
        return Part(name, State.FAILS, str(error), remedy)


def _engines(slot: Slot, work: Callable[[ModelVersion], str]) -> Iterator[Part]:
    """What is live in the slot, the newest version of each model, and the optional engine that there is no model of."""
    live = {
        str(row.model_version): row.scope for row in deployments.live().filter(slot=slot).exclude(model_version=None)
    }
    seen: set[str] = set()
    for version in newest_or(live).filter(model__kind=ModelKind(slot.value)):
        seen.add(version.model.provider)
        place = f"live: {live[str(version)]}" if str(version) in live else "not live"
        if version.status == VersionStatus.MISSING:
            yield Part(f"{slot.label}, {version}", State.FAILS, version.status_detail, "manage.py registry refresh")
        else:
            remedy = "/health/models says how it goes in the web processes."
            yield _tried(f"{slot.label}, {version}", lambda: f"{work(version)}; {place}", remedy)  # noqa: B023
    if not seen:
        yield Part(slot.label, State.FAILS, "no engine is registered", "manage.py seed registers what is installed.")
    name, module, level = OPTIONAL[slot]
    if find_spec(module) is None:
        what, remedy = "not installed", f"To use it: .venv/bin/pip install -r requirements/{level}.txt."
        yield Part(f"{slot.label}, {name}", State.ABSENT, what, remedy)
    elif name not in seen:
        what, remedy = "installed, without a model", "manage.py voices list shows which can be fetched."
        yield Part(f"{slot.label}, {name}", State.ABSENT, what, remedy)


def _voice_activity() -> str:
    detector = installed.voice_activity()
    frame = bytes(2 * detector.frame_samples)
    detector(frame)
    started = time.perf_counter()
    for _ in range(100):
        detector(frame)
    return f"{(time.perf_counter() - started) * 10:.2f} ms for a frame of 32 ms"


def _hears(version: ModelVersion) -> str:
    pcm = _spoken_sentence()
    started = time.perf_counter()
    engine = installed.start(not_deployed(Slot.STT, version))
    if isinstance(engine, SpeakingPool):
        raise EngineError(f"{version} is no engine that hears.")
    try:
        loaded_s = time.perf_counter() - started
        recognition = engine.start(lambda transcript: None)
        recognition.feed(pcm)
        began = time.perf_counter()
        recognition.finish().result()
        share = (time.perf_counter() - began) * 1000 / (len(pcm) / BYTES_PER_MS)
    finally:
        engine.close()
    # The one voice that is always here, and hard to hear: 79 % of its words are misheard.
    return f"{share:.2f} s for a second of eSpeak's voice, {engine.pool.size} at a time, loaded in {loaded_s:.1f} s"


def _speaks(version: ModelVersion) -> str:
    started = time.perf_counter()
    engine = installed.start(not_deployed(Slot.TTS, version))
    if not isinstance(engine, SpeakingPool):
        raise EngineError(f"{version} is no engine that speaks.")
    try:
        loaded_s = time.perf_counter() - started
        at: list[float] = []
        sound: list[bytes] = []

        def take(pcm: bytes) -> None:
            at.append(time.perf_counter())
            sound.append(pcm)

        began = time.perf_counter()
        engine.speak(f"{SENTENCE} And so on.", take).done.result()
        seconds = sum(map(len, sound)) / 2 / engine.sample_rate_hz
        share = (time.perf_counter() - began) / seconds
    finally:
        engine.close()
    return (
        f"first sound after {(at[0] - began) * 1000:.0f} ms, {share:.3f} s for a second of speech, "
        f"{len(engine.voices())} voices, loaded in {loaded_s:.1f} s"
    )


def _spoken_sentence() -> bytes:
    """A sentence of the packaged voice, as it is listened to."""
    engine = SpeakingPool("espeak-ng", espeak.MODULE, voices=tuple(espeak.VOICES), sample_rate_hz=espeak.SAMPLE_RATE_HZ)
    try:
        pieces: list[bytes] = []
        engine.speak(SENTENCE, pieces.append).done.result()
    finally:
        engine.close()
    wav = sounds.wav_of(b"".join(pieces), espeak.SAMPLE_RATE_HZ)
    return sounds.decode(wav, longest_bytes=1 << 22, longest_s=30)


def _wake_word() -> str:
    spotter, phrase = installed.wake_word(), settings.VOICE_WAKE_PHRASE
    spotter.warm_up(phrase)
    pcm = _spoken_sentence()
    started = time.perf_counter()
    watch = spotter.watch(phrase, lambda at_ms: None)
    watch.feed(pcm)
    was_heard = watch.finish().result()
    share = (time.perf_counter() - started) * 1000 / (len(pcm) / BYTES_PER_MS)
    return f"'{phrase}': {'heard' if was_heard else 'not heard'} in another sentence, {share:.2f} s for a second of it"


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
