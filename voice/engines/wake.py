"""Hearing one phrase and nothing else: the word that wakes the agent, by PocketSphinx's keyword spotting.

    spotter = WakeWordPool(size=1)
    watch = spotter.watch("leonardo", on_wake)     # for one stretch of speech, as a recogniser is started for one
    watch.feed(pcm)                                # 16 kHz mono PCM16, never waits
    was_heard = watch.finish().result()            # or watch.cancel()

``on_wake(at_ms)`` is called once, on a thread of the spotter's, as soon as the phrase was heard: ``at_ms`` of the
stretch's sound is where it ended, so what follows is the question. It takes a thirtieth of what recognising takes.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from voice.engines.contracts import Transcript
from voice.engines.listening import ListeningPool

MODULE = "voice.engines.wake_child"


class Watch(Protocol):
    """One stretch of speech in which the phrase is listened for."""

    def feed(self, pcm: bytes) -> None:
        """The next sound. Never waits; raises `EngineBusyError` when there is hopelessly much of it."""

    def finish(self) -> Future[bool]:
        """That was all. Whether the phrase was in it; or an `EngineError`, as for a word that is in no dictionary."""

    def cancel(self) -> None:
        """Nobody wants to know any more."""


class WakeWordSpotter(Protocol):
    """Listens for a phrase."""

    name: str

    def watch(self, phrase: str, on_wake: Callable[[int], None]) -> Watch:
        """Listen for ``phrase``, of English words, in whatever case. Raises `EngineBusyError`."""

    def warm_up(self, phrase: str) -> None:
        """Wait until it could listen at once. Raises `EngineError`."""

    def close(self) -> None:
        """End its processes; it may be used again afterwards."""


class WakeWordPool:
    """A `WakeWordSpotter` over ``size`` child processes; more stretches than that at once wait for their turn."""

    name = "pocketsphinx"

    def __init__(self, *, size: int = 1) -> None:
        self._ears = ListeningPool("wake word", MODULE, size=size)
        self.pool = self._ears.pool

    def watch(self, phrase: str, on_wake: Callable[[int], None]) -> Watch:
        return _Watch(self._ears, phrase, on_wake)

    def warm_up(self, phrase: str) -> None:
        self.watch(phrase, lambda at_ms: None).finish().result()

    def close(self) -> None:
        self._ears.close()


class _Watch:
    def __init__(self, ears: ListeningPool, phrase: str, on_wake: Callable[[int], None]) -> None:
        self._on_wake = on_wake
        self._is_told = False
        self._heard: Future[bool] = Future()
        self._recognition = ears.start(self._take, speaker=phrase.lower())

    def feed(self, pcm: bytes) -> None:
        self._recognition.feed(pcm)

    def finish(self) -> Future[bool]:
        self._recognition.finish().add_done_callback(self._end)
        return self._heard

    def cancel(self) -> None:
        self._recognition.cancel()
        self._heard.cancel()

    def _take(self, transcript: Transcript) -> None:
        if transcript.text and not self._is_told:
            self._is_told = True
            self._on_wake(transcript.words[-1].end_ms if transcript.words else transcript.audio_ms)

    def _end(self, final: Future[Transcript]) -> None:
        if final.cancelled() or not self._heard.set_running_or_notify_cancel():
            return
        error = final.exception()
        if error is not None:
            self._heard.set_exception(error)
            return
        self._take(final.result())
        self._heard.set_result(self._is_told)
