"""The engines of this process: what the registry says is live, made once and shared by all sessions.

Those that come with the wheels start when somebody first speaks. A model that somebody brought in is loaded when the
process starts, as every other model is. While it can't be used a packaged engine takes its place; its label says so.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import Error as DatabaseFault

from models_registry import artifacts, loading, serving
from models_registry.live import LiveModel, not_deployed, view
from models_registry.models import GLOBAL_SCOPE, ModelVersion, Slot
from ops.contracts.problems import Unavailable, Unprocessable
from voice.engines import espeak, piper, whisper
from voice.engines.contracts import EngineError, EngineMissingError, SpeechToText, TextToSpeech, VoiceActivityDetector
from voice.engines.decoding import DecodingPool
from voice.engines.listening import ListeningPool
from voice.engines.silero import SileroVad
from voice.engines.speaking import SpeakingPool
from voice.engines.wake import WakeWordPool, WakeWordSpotter
from voice.engines.workers import Pool
from voice.turns.interruption_model import InterruptionModel
from voice.turns.interruptions import Judge, Moment, Rules

logger = logging.getLogger(__name__)

Engine = ListeningPool | DecodingPool | SpeakingPool

ON_DEMAND = {Slot.STT: ("pocketsphinx",), Slot.TTS: ("espeak-ng",)}
"""Providers that come with the wheels: they start in half a second, when somebody needs them."""
WAKE_PROCESSES = 2
"""At a fifteenth of real time each follows as many people as speak at the same time, one stretch after the other."""
RETRY_AFTER_S = 30.0
"""How long a model that can't be loaded is left alone."""


@dataclass(frozen=True, slots=True)
class Heard:
    """An engine with the label of the version that it is; of one in another's place the label tells that."""

    label: str
    engine: SpeechToText


@dataclass(frozen=True, slots=True)
class Spoken:
    label: str
    engine: TextToSpeech


def stt_processes() -> int:
    return settings.VOICE_STT_PROCESSES or max(os.cpu_count() or 1, 2)


def _pocketsphinx(model: LiveModel) -> Engine:
    return ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=stt_processes())


def _whisper(model: LiveModel) -> Engine:
    folder = model_folder(model, whisper.FILES)
    # A model is large, and each of its processes holds a copy; they decode and wait for nobody who speaks.
    return whisper.engine(folder, model.parameters, size=settings.VOICE_STT_PROCESSES or 1)


def _espeak(model: LiveModel) -> Engine:
    first = settings.VOICE_VOICE if settings.VOICE_VOICE in espeak.VOICES else next(iter(espeak.VOICES))
    voices = [first, *(name for name in espeak.VOICES if name != first)]
    return SpeakingPool(
        "espeak-ng",
        espeak.MODULE,
        voices=voices,
        sample_rate_hz=espeak.SAMPLE_RATE_HZ,
        size=settings.VOICE_TTS_PROCESSES,
    )


def _piper(model: LiveModel) -> Engine:
    return piper.engine(model.name, model_folder(model, piper.FILES), size=settings.VOICE_TTS_PROCESSES)


MAKERS: dict[tuple[Slot, str], Callable[[LiveModel], Engine]] = {
    (Slot.STT, "pocketsphinx"): _pocketsphinx,
    (Slot.STT, whisper.NAME): _whisper,
    (Slot.TTS, "espeak-ng"): _espeak,
    (Slot.TTS, piper.NAME): _piper,
}
"""By slot and the model's provider."""

_engines: dict[int, Engine] = {}
_wake_word: WakeWordPool | None = None
_failed_at: dict[int, float] = {}
_judges: dict[int, Judge] = {}
_lock = threading.Lock()
_load_locks: dict[int, threading.Lock] = {}


def speech_to_text(collection: str = GLOBAL_SCOPE) -> Heard:
    """Waits for a model that is being loaded. Raises `Unavailable` when none is live or none can be used here."""
    label, engine = _usable(Slot.STT, collection)
    return Heard(label, engine)  # type: ignore[arg-type]


def text_to_speech(collection: str = GLOBAL_SCOPE) -> Spoken:
    """Waits for a voice that is being loaded. Raises `Unavailable` when none is live or none can be used here."""
    label, engine = _usable(Slot.TTS, collection)
    return Spoken(label, engine)  # type: ignore[arg-type]


def voices(collection: str = GLOBAL_SCOPE) -> tuple[str, ...]:
    """The voices that can be chosen, the default first; none without an engine. Nothing is started for a look."""
    try:
        live = serving.in_service(view.model(Slot.TTS, collection), collection)
        packaged = live.provider in ON_DEMAND[Slot.TTS]
        engine = _engine(live) if packaged else _usable(Slot.TTS, collection)[1]
    except Unavailable:
        return ()
    return tuple(engine.voices()) if isinstance(engine, SpeakingPool) else ()


def wake_word() -> WakeWordSpotter:
    """What listens for ``VOICE_WAKE_PHRASE``. Its process starts with its first use. Never raises."""
    global _wake_word
    with _lock:
        if _wake_word is None:
            _wake_word = WakeWordPool(size=WAKE_PROCESSES)
        return _wake_word


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
        _failed_at.clear()
    for engine in engines:
        engine.close()
    if _wake_word is not None:
        _wake_word.close()


def model_folder(model: LiveModel, files: dict[str, str]) -> Path:
    """A folder with a version's files by the names that ``files`` gives to their roles, for engines that open folders.

    Raises `artifacts.ArtifactError`.
    """
    folder: Path = settings.ZENGLOW_DATA_DIR / "voice" / "models" / f"{model.name}@{model.number}"
    folder.mkdir(parents=True, exist_ok=True)
    for role, name in files.items():
        if role not in model.artifacts:
            continue
        link, target = folder / name, artifacts.local_path(model.artifacts[role]).resolve()
        if link.resolve() != target:
            draft = folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
            draft.symlink_to(target)
            draft.replace(link)
    return folder


def start(model: LiveModel) -> Engine:
    """An engine of its own for a version, started. Raises `EngineError` and `artifacts.ArtifactError`."""
    engine = _made(model)
    try:
        engine.warm_up()
    except Exception:
        engine.close()
        raise
    return engine


def try_out(version: ModelVersion) -> None:
    """A version shows that it works before it goes live. Raises `Unprocessable`."""
    slot = Slot(version.model.kind)
    if version.model.provider in ON_DEMAND[slot]:
        return
    try:
        start(not_deployed(slot, version)).close()
    except (EngineError, artifacts.ArtifactError, Unavailable) as error:
        raise Unprocessable(f"{version} does not work here. {error}") from error


def _usable(slot: Slot, collection: str) -> tuple[str, Engine]:
    live = serving.in_service(view.model(slot, collection), collection)
    try:
        return live.label, _started(live)
    except (EngineError, artifacts.ArtifactError, Unavailable) as error:
        spare = _spare(slot, live)
        if spare is None:
            raise Unavailable(f"{live.label} can't be used: {error}") from error
        logger.warning("%s takes the place of %s: %s", spare.label, live.label, error)
        return f"{spare.label}, as {live.label} can't be used", _started(spare)


def _spare(slot: Slot, live: LiveModel) -> LiveModel | None:
    """The packaged engine that takes the place of one that can't be used."""
    if live.provider in ON_DEMAND[slot]:
        return None
    try:
        packaged = ModelVersion.objects.filter(model__kind=slot.value, model__provider__in=ON_DEMAND[slot])
        version = packaged.select_related("model").order_by("-id").first()
    except DatabaseFault:
        return None
    return None if version is None else not_deployed(slot, version)


def _started(live: LiveModel) -> Engine:
    """The engine of a version, loaded; of a packaged one, which is quick, while it is being loaded behind."""
    if live.provider in ON_DEMAND[live.slot]:
        engine = _engine(live)
        serving.is_ready(live)
        return engine
    if time.monotonic() - _failed_at.get(live.version_id, float("-inf")) < RETRY_AFTER_S:
        raise EngineMissingError(loading.report_of(live.label).error or f"{live.label} can't be loaded.")
    loader = EngineLoader()
    if not loader.is_loaded(live):
        loader.load(live)
        _let_go_of_spare(live)
    return _engine(live)


def _let_go_of_spare(live: LiveModel) -> None:
    """What took the place of a version that is loaded now ends with those who still speak with it."""
    spare = _spare(live.slot, live)
    needed = {model.version_id for model in view.all() if isinstance(model, LiveModel)}
    if spare is not None and spare.version_id in _engines and spare.version_id not in needed:
        EngineLoader().unload(spare)


def _made(live: LiveModel) -> Engine:
    maker = MAKERS.get((live.slot, live.provider))
    if maker is None:
        raise Unavailable(f"{live.label} is live, but nothing here runs '{live.provider}'.")
    return maker(live)


def _engine(live: LiveModel) -> Engine:
    with _lock:
        engine = _engines.get(live.version_id)
        if engine is None:
            engine = _engines[live.version_id] = _made(live)
            # Whoever speaks with it goes on with it after another has taken its place; its processes end with the last.
            weakref.finalize(engine, _close_behind, engine.pool, live.label).atexit = False
        return engine


def _children_of(model: LiveModel) -> list[int]:
    engine = _engines.get(model.version_id)
    return [] if engine is None else engine.pool.child_pids()


def _close_behind(pool: Pool, label: str) -> None:
    """End a pool from whichever thread let go of it last: waiting for its processes is left to another."""
    threading.Thread(target=pool.close, name=f"close-{label}", daemon=True).start()


class EngineLoader:
    """Tells `models_registry.serving` how engines are started and ended, and `/health/models` how that went."""

    def is_loaded(self, model: LiveModel) -> bool:
        engine = _engines.get(model.version_id)
        is_ready = loading.report_of(model.label).state is loading.LoadState.READY
        return is_ready and engine is not None and engine.pool.fault is None

    def load(self, model: LiveModel) -> None:
        with _lock:
            lock = _load_locks.setdefault(model.version_id, threading.Lock())
        with lock:
            if self.is_loaded(model):
                return
            try:
                with loading.loading(model.label, children=lambda: _children_of(model)):
                    _engine(model).warm_up()
            except Exception:
                _failed_at[model.version_id] = time.monotonic()
                raise
            _failed_at.pop(model.version_id, None)

    def unload(self, model: LiveModel) -> None:
        with _lock:
            _engines.pop(model.version_id, None)
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
