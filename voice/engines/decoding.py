"""Speech to text by engines that hear a stretch as a whole: what was said so far is decoded anew, again and again.

A child is taken for a decoding and not for as long as somebody speaks, so a few of them, which may be large, serve many
people. Partial transcripts are given up first when there is much to do: one is asked for only while a child is free.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from voice.engines.contracts import BYTES_PER_MS, EngineBusyError, EngineError, Transcript, VocabularyKind
from voice.engines.listening import LONGEST_MS, transcript_of
from voice.engines.wire import Kind
from voice.engines.workers import Child, Pool

PARTIAL_MS = 700
"""New sound after which a partial transcript is worth its while."""
DUTY = 2.0
"""How many times as long as the last decoding took is waited before the next one."""
PIECE = 1 << 20
LEAST_PATIENCE_S = 30.0
PATIENCE_PER_S = 4.0
"""How long a decoding may take, for a second of sound."""


class DecodingPool:
    """A `voice.engines.contracts.SpeechToText` over ``size`` children."""

    vocabulary_kind = VocabularyKind.HOT_WORDS

    def __init__(self, name: str, module: str, *arguments: str, size: int = 1, longest_queue: int = 64) -> None:
        self.name = name
        self.pool = Pool(module, *arguments, size=size, longest_queue=longest_queue)

    def start(
        self, on_partial: Callable[[Transcript], None], vocabulary: Path | None = None, *, speaker: str = ""
    ) -> DecodedRecognition:
        return DecodedRecognition(self.pool, on_partial, vocabulary)

    def prepare(self, vocabulary: Path | None) -> None:
        """Hot words go along with each piece of sound; nothing of them is loaded."""

    def warm_up(self) -> None:
        recognition = self.start(lambda transcript: None)
        recognition.feed(bytes(BYTES_PER_MS * 200))
        recognition.finish().result()

    def close(self) -> None:
        self.pool.close()


class DecodedRecognition:
    """One stretch of speech, kept until it is over."""

    def __init__(self, pool: Pool, on_partial: Callable[[Transcript], None], vocabulary: Path | None) -> None:
        self._pool = pool
        self._on_partial = on_partial
        self._vocabulary = str(vocabulary) if vocabulary else None
        self._sound = bytearray()
        self._lock = threading.Lock()
        self._final: Future[Transcript] = Future()
        self._is_cancelled = self._is_decoding = self._is_final_told = False
        self._decoded_bytes = 0
        self._step_ms = float(PARTIAL_MS)
        self._last = ""

    def feed(self, pcm: bytes) -> None:
        with self._lock:
            if len(self._sound) + len(pcm) > LONGEST_MS * BYTES_PER_MS:
                raise EngineBusyError(f"More than {LONGEST_MS // 1000} s of speech at a stretch can't be heard.")
            self._sound += pcm
            new_ms = (len(self._sound) - self._decoded_bytes) / BYTES_PER_MS
            if self._is_decoding or self._is_cancelled or new_ms < self._step_ms or not self._pool.has_room:
                return
            self._is_decoding = True
            self._decoded_bytes = len(self._sound)
            job = _Decoding(self, bytes(self._sound), is_final=False)
        self._submit(job)

    def finish(self) -> Future[Transcript]:
        with self._lock:
            job = _Decoding(self, bytes(self._sound), is_final=True)
        if not self._is_cancelled:
            self._submit(job)
        return self._final

    def cancel(self) -> None:
        self._is_cancelled = True
        self._final.cancel()

    def _submit(self, job: _Decoding) -> None:
        try:
            self._pool.submit(job)
        except EngineBusyError as error:
            job.fail(error)

    # --- on a thread of the pool ----

    def take(self, heard: dict[str, Any], *, is_final: bool, took_ms: float) -> None:
        with self._lock:
            if not is_final:
                self._is_decoding = False
                self._step_ms = max(PARTIAL_MS, DUTY * took_ms)
            if self._is_cancelled or self._is_final_told or (not is_final and heard["text"] == self._last):
                return
            self._last = heard["text"]
            self._is_final_told = is_final
        if not is_final:
            self._on_partial(transcript_of(heard, is_final=False))
        elif self._final.set_running_or_notify_cancel():
            self._final.set_result(transcript_of(heard, is_final=True))

    def give_up(self, error: EngineError, *, is_final: bool) -> None:
        """Without a partial transcript one waits for the final one, which says what is wrong."""
        if not is_final:
            self._is_decoding = False
        elif self._final.set_running_or_notify_cancel():
            self._final.set_exception(error)

    @property
    def vocabulary(self) -> str | None:
        return self._vocabulary

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled


class _Decoding:
    """One look at the sound so far."""

    may_begin_again = True

    def __init__(self, recognition: DecodedRecognition, pcm: bytes, *, is_final: bool) -> None:
        self._recognition = recognition
        self._pcm = pcm
        self._is_final = is_final

    def serve(self, child: Child) -> None:
        if self._recognition.is_cancelled:
            return
        started = time.perf_counter()
        request = {"vocabulary": self._recognition.vocabulary, "is_final": self._is_final}
        child.send(Kind.START, json.dumps(request).encode())
        for start in range(0, len(self._pcm), PIECE):
            child.send(Kind.AUDIO, self._pcm[start : start + PIECE])
        child.send(Kind.FINISH)
        kind, content = child.receive(LEAST_PATIENCE_S + PATIENCE_PER_S * len(self._pcm) / BYTES_PER_MS / 1000)
        if kind == Kind.ERROR:
            raise EngineError(content.decode(errors="replace"))
        took_ms = (time.perf_counter() - started) * 1000
        self._recognition.take(json.loads(content), is_final=self._is_final, took_ms=took_ms)

    def fail(self, error: EngineError) -> None:
        self._recognition.give_up(error, is_final=self._is_final)
