"""The engines of this process: what the registry says is live, made once and shared by all sessions."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from django.conf import settings

from models_registry import artifacts, loading
from models_registry.live import LiveModel, view
from models_registry.models import GLOBAL_SCOPE, Slot
from ops.contracts.problems import Unavailable
from voice.engines import espeak
from voice.engines.contracts import EngineError, EngineMissingError, SpeechToText, TextToSpeech, VoiceActivityDetector
from voice.engines.listening import ListeningPool
from voice.engines.silero import SileroVad
from voice.engines.speaking import SpeakingPool
from voice.turns.interruption_model import InterruptionModel
from voice.turns.interruptions import Judge, Moment, Rules

logger = logging.getLogger(__name__)

Engine = SpeechToText | TextToSpeech


@dataclass(frozen=True, slots=True)
class Heard:
    """An engine with the label of the version that it is."""

    label: str
    engine: SpeechToText


@dataclass(frozen=True, slots=True)
class Spoken:
    label: str
    engine: TextToSpeech


def stt_processes() -> int:
    return settings.VOICE_STT_PROCESSES or max(os.cpu_count() or 1, 2)


def _pocketsphinx(model: LiveModel) -> SpeechToText:
    return ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=stt_processes())


def _espeak(model: LiveModel) -> TextToSpeech:
    first = settings.VOICE_VOICE if settings.VOICE_VOICE in espeak.VOICES else next(iter(espeak.VOICES))
    voices = [first, *(name for name in espeak.VOICES if name != first)]
    return SpeakingPool(
        "espeak-ng",
        espeak.MODULE,
        voices=voices,
        sample_rate_hz=espeak.SAMPLE_RATE_HZ,
        size=settings.VOICE_TTS_PROCESSES,
    )


MAKERS: dict[tuple[Slot, str], Callable[[LiveModel], Engine]] = {
    (Slot.STT, "pocketsphinx"): _pocketsphinx,
    (Slot.TTS, "espeak-ng"): _espeak,
}
"""By slot and the model's provider."""

_engines: dict[int, Engine] = {}
_judges: dict[int, Judge] = {}
_lock = threading.Lock()


def speech_to_text(collection: str = GLOBAL_SCOPE) -> Heard:
    """Raises `Unavailable` when none is live or it can't be used here."""
    live = view.model(Slot.STT, collection)
    return Heard(live.label, _engine(live))  # type: ignore[arg-type]


def text_to_speech(collection: str = GLOBAL_SCOPE) -> Spoken:
    """Raises `Unavailable` when none is live or it can't be used here."""
    live = view.model(Slot.TTS, collection)
    return Spoken(live.label, _engine(live))  # type: ignore[arg-type]


def judge_of_interruptions(collection: str = GLOBAL_SCOPE) -> Judge:
    """The live model, or the rules where there is none that can be used."""
    try:
        return _judge(view.model(Slot.INTERRUPTION, collection))
    except (Unavailable, artifacts.ArtifactError, OSError, ValueError, KeyError) as error:
        logger.warning("Interruptions are judged by rules: %s", error)
        return Rules()


def voice_activity() -> VoiceActivityDetector:
    """A detector for one stream. Raises `Unavailable`."""
    try:
        return SileroVad()
    except EngineError as error:
        raise Unavailable(str(error)) from error


def close_engines() -> None:
    """End the processes of all engines; who needs one next starts it anew."""
    with _lock:
        engines = list(_engines.values())
        _engines.clear()
    for engine in engines:
        engine.close()


def _engine(live: LiveModel) -> Engine:
    with _lock:
        engine = _engines.get(live.version_id)
        if engine is None:
            maker = MAKERS.get((live.slot, live.provider))
            if maker is None:
                raise Unavailable(f"{live.label} is live, but nothing here runs '{live.provider}'.")
            engine = _engines[live.version_id] = maker(live)
        return engine


class EngineLoader:
    """Tells `models_registry.serving` how engines are started and ended, and `/health/models` how that went."""

    def is_loaded(self, model: LiveModel) -> bool:
        return loading.report_of(model.label).state is loading.LoadState.READY

    def load(self, model: LiveModel) -> None:
        with loading.loading(model.label):
            _engine(model).warm_up()

    def unload(self, model: LiveModel) -> None:
        with _lock:
            engine = _engines.pop(model.version_id, None)
        if engine is not None:
            engine.close()
        loading.unloaded(model.label)


class JudgeLoader:
    """The same for the judge of interruptions."""

    def is_loaded(self, model: LiveModel) -> bool:
        return model.version_id in _judges

    def load(self, model: LiveModel) -> None:
        with loading.loading(model.label):
            _judge(model).judge(Moment("wait which one"))

    def unload(self, model: LiveModel) -> None:
        _judges.pop(model.version_id, None)
        loading.unloaded(model.label)


def _judge(live: LiveModel) -> Judge:
    judge = _judges.get(live.version_id)
    if judge is None:
        if live.provider != InterruptionModel.name:
            raise Unavailable(f"Nothing here runs '{live.provider}' as judge of interruptions.")
        judge = _judges[live.version_id] = InterruptionModel.load(artifacts.local_path(live.artifacts["model"]))
    return judge


class DetectorLoader:
    """The same for the voice activity model, which lives in this process and needs no ending."""

    def is_loaded(self, model: LiveModel) -> bool:
        return loading.report_of(model.label).state is loading.LoadState.READY

    def load(self, model: LiveModel) -> None:
        with loading.loading(model.label):
            if model.provider != SileroVad.name:
                raise EngineMissingError(f"Nothing here runs '{model.provider}' as voice activity detector.")
            detector = SileroVad()
            detector(bytes(2 * detector.frame_samples))

    def unload(self, model: LiveModel) -> None:
        loading.unloaded(model.label)
