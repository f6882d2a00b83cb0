"""One utterance at a time: what is said in a file, and a text as sound. For callers without a session."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import Any

from django.conf import settings

from models_registry.models import GLOBAL_SCOPE
from ops.contracts.model_calls import model_call
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest, NotFound, Unavailable, Unprocessable
from ops.contracts.stage import stage
from rag.models import Collection
from voice import installed, sounds
from voice.engines.contracts import EngineBusyError, EngineError, Style
from voice.metrics import OPERATIONS, EngineCall, model_of
from voice.sentences import Sentences
from voice.spoken_text import spoken
from voice.vocabulary.service import vocabulary_for

PATIENCE_S = 120.0
SPOKEN_LONGEST = 900


@dataclass(frozen=True, slots=True)
class Speech:
    """``text`` as it is said; ``pieces`` is its sound, mono PCM16, made while it is read."""

    text: str
    rate_hz: int
    pieces: Iterator[bytes]


def listen(data: bytes, collection: str | None, principal: Principal) -> dict[str, Any]:
    """What is said in a sound file, as a transcript's fields with ``engine``.

    Raises what `voice.sounds.decode` does, `NotFound` and `Unavailable`.
    """
    if collection is not None and not (
        principal.may_touch(collection) and Collection.objects.filter(slug=collection).exists()
    ):
        raise NotFound(f"There is no collection '{collection}'.")
    started = time.perf_counter()
    pcm = sounds.decode(data, longest_bytes=settings.VOICE_UPLOAD_MAX_BYTES, longest_s=settings.VOICE_UPLOAD_MAX_S)
    heard = installed.speech_to_text(collection or GLOBAL_SCOPE)
    try:
        recognition = heard.engine.start(
            lambda transcript: None, vocabulary_for(collection, heard.engine.vocabulary_kind) if collection else None
        )
        with stage("stt"), model_call("stt", model_of(heard.label), OPERATIONS["stt"], items=1):
            recognition.feed(pcm)
            transcript = recognition.finish().result(PATIENCE_S)
    except EngineBusyError as error:
        raise Unavailable(str(error), retry_after_s=5) from error
    except EngineError as error:
        raise Unavailable(f"What is said could not be heard: {error}", retry_after_s=5) from error
    except TimeoutError as error:
        recognition.cancel()
        raise Unavailable("It was not heard in time. Try again, or a shorter file.", retry_after_s=10) from error
    elapsed_ms = (time.perf_counter() - started) * 1000
    return asdict(transcript) | {"engine": heard.label, "processing_ms": round(elapsed_ms, 1)}


def speak(text: str, *, voice: str, style: Style) -> Speech:
    """Raises `InvalidRequest` for an unknown voice, `Unprocessable` when nothing of the text can be said."""
    said = installed.text_to_speech()
    if voice and voice not in said.engine.voices():
        raise InvalidRequest(
            f"There is no voice '{voice[:50]}', only {', '.join(said.engine.voices())}.", errors={"voice": "unknown"}
        )
    sentences = Sentences()
    parts = [spoken(part)[:SPOKEN_LONGEST] for part in [*sentences.take(text), *sentences.finish()]]
    lines = [part for part in parts if part]
    if not lines:
        raise Unprocessable("Nothing of this text can be said aloud.")
    pieces = _pieces(said, lines, voice, style)
    return Speech(" ".join(lines), said.engine.sample_rate_hz, pieces)


def as_file(speech: Speech, kind: str) -> bytes:
    """``wav`` or ``opus``."""
    pcm = b"".join(speech.pieces)
    return sounds.wav_of(pcm, speech.rate_hz) if kind == "wav" else sounds.opus_of(pcm, speech.rate_hz)


def _pieces(said: installed.Spoken, lines: list[str], voice: str, style: Style) -> Iterator[bytes]:
    for line in lines:
        made: queue.SimpleQueue[bytes | Future[None]] = queue.SimpleQueue()
        speaking = EngineCall("tts", said.label)
        try:
            utterance = said.engine.speak(line, made.put, style=style, voice=voice)
        except Exception as error:
            speaking.end(error)
            if isinstance(error, EngineError):
                raise Unavailable(f"It could not be spoken: {error}", retry_after_s=5) from error
            raise
        speaking.end_with(utterance.done)
        try:
            utterance.done.add_done_callback(made.put)
            while isinstance(piece := made.get(timeout=PATIENCE_S), bytes):
                yield piece
            piece.result()
        except (EngineError, queue.Empty) as error:
            raise Unavailable(f"It could not be spoken: {error}", retry_after_s=5) from error
        finally:
            utterance.cancel()
