"""Speech to text in child processes, fed while somebody speaks: whichever engine the child holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from voice.engines.contracts import (
    BYTES_PER_MS,
    EngineBusyError,
    EngineError,
    Transcript,
    VocabularyKind,
    Word,
)
from voice.engines.wire import Kind
from voice.engines.workers import Child, Pool

CHUNK_MS = 256
"""Sound that a child is given at once while it lags behind."""
FORGOTTEN_S = 60.0
"""After how long without a sound or an end a recognition gives its child back."""
LONGEST_MS = 300_000
"""Sound of one recognition; what comes after that is refused."""


class ListeningPool:
    """A `voice.engines.contracts.SpeechToText` over ``size`` children; more than that at once wait for their turn."""

    vocabulary_kind = VocabularyKind.LANGUAGE_MODEL

    def __init__(self, name: str, module: str, *arguments: str, size: int = 1, longest_queue: int = 64) -> None:
        self.name = name
        self.pool = Pool(module, *arguments, size=size, longest_queue=longest_queue)

    def start(
        self, on_partial: Callable[[Transcript], None], vocabulary: Path | None = None, *, speaker: str = ""
    ) -> ChildRecognition:
        recognition = ChildRecognition(on_partial, vocabulary, speaker)
        self.pool.submit(recognition)
        return recognition

    def prepare(self, vocabulary: Path | None) -> None:
        begin = json.dumps({"vocabulary": str(vocabulary) if vocabulary else None, "speaker": ""}).encode()

        def load(child: Child) -> None:
            child.ask(Kind.START, begin)
            child.ask(Kind.CANCEL)

        self.pool.prepare(load)

    def warm_up(self) -> None:
        waiting = [self.start(lambda transcript: None) for _ in range(self.pool.size)]
        for recognition in waiting:
            recognition.feed(bytes(BYTES_PER_MS * 64))
        for one in [recognition.finish() for recognition in waiting]:
            one.result()

    def close(self) -> None:
        self.pool.close()


class ChildRecognition:
    """One stretch of speech, with all of its sound: a child that crashes is replaced and told it again."""

    def __init__(self, on_partial: Callable[[Transcript], None], vocabulary: Path | None, speaker: str) -> None:
        self._on_partial = on_partial
        self._begin = {"vocabulary": str(vocabulary) if vocabulary else None, "speaker": speaker}
        self._sound = bytearray()
        self._is_complete = self._is_cancelled = False
        self._changed = threading.Condition()
        self._final: Future[Transcript] = Future()
        self._last = ""

    def feed(self, pcm: bytes) -> None:
        with self._changed:
            if len(self._sound) + len(pcm) > LONGEST_MS * BYTES_PER_MS:
                raise EngineBusyError(f"More than {LONGEST_MS // 1000} s of speech at a stretch can't be heard.")
            self._sound += pcm
            self._changed.notify()

    def finish(self) -> Future[Transcript]:
        with self._changed:
            self._is_complete = True
            self._changed.notify()
        return self._final

    def cancel(self) -> None:
        with self._changed:
            self._is_cancelled = True
            self._changed.notify()
        self._final.cancel()

    # --- on a thread of the pool ----

    @property
    def may_begin_again(self) -> bool:
        return True

    def serve(self, child: Child) -> None:
        child.ask(Kind.START, json.dumps(self._begin).encode())
        position = 0
        while True:
            with self._changed:
                is_told = self._changed.wait_for(
                    lambda: self._is_cancelled or self._is_complete or len(self._sound) > position,  # noqa: B023
                    FORGOTTEN_S,
                )
                if not is_told:
                    self._is_cancelled = True
                    self._final.cancel()
                chunk = bytes(self._sound[position : position + CHUNK_MS * BYTES_PER_MS])
            if self._is_cancelled:
                child.ask(Kind.CANCEL)
                return
            if not chunk:
                break
            position += len(chunk)
            _, answer = child.ask(Kind.AUDIO, chunk)
            self._tell(json.loads(answer))
        _, answer = child.ask(Kind.FINISH)
        if self._final.set_running_or_notify_cancel():
            self._final.set_result(transcript_of(json.loads(answer), is_final=True))

    def fail(self, error: EngineError) -> None:
        if self._final.set_running_or_notify_cancel():
            self._final.set_exception(error)

    def _tell(self, heard: dict[str, Any]) -> None:
        if heard["text"] != self._last and not self._is_cancelled:
            self._last = heard["text"]
            self._on_partial(transcript_of(heard, is_final=False))


def transcript_of(heard: dict[str, Any], *, is_final: bool) -> Transcript:
    """What a child told, as JSON."""
    return Transcript(
        text=heard["text"],
        is_final=is_final,
        language=heard.get("language", "en"),
        confidence=heard.get("confidence", 0.0),
        words=tuple(Word(*word) for word in heard.get("words", ())),
        audio_ms=heard["audio_ms"],
        processing_ms=heard["processing_ms"],
        speaker=heard.get("speaker", ""),
    )
