"""Text to speech in child processes: whichever engine the child holds. Short phrases are remembered."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from voice.engines.contracts import LONGEST_TEXT, MANNERS, EngineError, Style
from voice.engines.wire import Kind
from voice.engines.workers import Child, Pool

CACHED_CHARACTERS = 80
"""Longest phrase that is remembered: greetings, offers, what is said when nothing is found."""
CACHED_BYTES = 8 << 20


class SpeakingPool:
    """A `voice.engines.contracts.TextToSpeech` over ``size`` children."""

    def __init__(
        self, name: str, module: str, *arguments: str, voices: Sequence[str], sample_rate_hz: int, size: int = 1
    ) -> None:
        self.name = name
        self.sample_rate_hz = sample_rate_hz
        self.pool = Pool(module, *arguments, size=size)
        self.phrases = PhraseCache(CACHED_BYTES)
        self._voices = tuple(voices)

    def voices(self) -> Sequence[str]:
        return self._voices

    def speak(
        self, text: str, on_audio: Callable[[bytes], None], *, style: Style = Style.EXPLAINING, voice: str = ""
    ) -> ChildUtterance:
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"At most {LONGEST_TEXT} characters can be said at once, not {len(text)}.")
        voice = voice or self._voices[0]
        if voice not in self._voices:
            raise ValueError(f"There is no voice '{voice}', only {', '.join(self._voices)}.")
        utterance = ChildUtterance(text, style, voice, on_audio, self.phrases, self.sample_rate_hz)
        known = self.phrases.get(utterance.key)
        if known is not None:
            utterance.take_whole(known)
        else:
            self.pool.submit(utterance)
        return utterance

    def warm_up(self) -> None:
        self.speak("Ready.", lambda pcm: None).done.result()

    def close(self) -> None:
        self.pool.close()


class PhraseCache:
    """What was said last, by text, voice and style, up to so many bytes of sound."""

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.size_bytes = 0
        self._phrases: OrderedDict[tuple[str, ...], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, ...]) -> bytes | None:
        with self._lock:
            if key in self._phrases:
                self._phrases.move_to_end(key)
            return self._phrases.get(key)

    def put(self, key: tuple[str, ...], pcm: bytes) -> None:
        with self._lock:
            self.size_bytes += len(pcm) - len(self._phrases.pop(key, b""))
            self._phrases[key] = pcm
            while self.size_bytes > self.capacity_bytes:
                _, oldest = self._phrases.popitem(last=False)
                self.size_bytes -= len(oldest)


class ChildUtterance:
    """Something that is being said by a child, or from memory."""

    def __init__(
        self,
        text: str,
        style: Style,
        voice: str,
        on_audio: Callable[[bytes], None],
        phrases: PhraseCache,
        sample_rate_hz: int,
    ) -> None:
        self.done: Future[None] = Future()
        self.key = (text, voice, style.value)
        self._text, self._voice, self._manner = text, voice, MANNERS[style]
        self._on_audio = on_audio
        self._phrases = phrases
        self._pause = bytes(2 * (sample_rate_hz * self._manner.pause_ms // 1000))
        self._lock = threading.Lock()
        self._is_cancelled = self._has_begun = False

    def cancel(self) -> None:
        with self._lock:
            self._is_cancelled = True
        self.done.cancel()

    def take_whole(self, pcm: bytes) -> None:
        """Hand over what is known already."""
        self._hand_over(pcm)
        self._end()

    # --- on a thread of the pool ----

    @property
    def may_begin_again(self) -> bool:
        return not self._has_begun

    def serve(self, child: Child) -> None:
        if self._is_cancelled:
            return
        request = {
            "text": self._text,
            "voice": self._voice,
            "rate": self._manner.rate,
            "pitch": self._manner.pitch,
            "pitch_range": self._manner.pitch_range,
        }
        child.send(Kind.START, json.dumps(request).encode())
        said: list[bytes] = []
        is_told = False
        while True:
            kind, payload = child.receive()
            if kind == Kind.ERROR:
                raise EngineError(payload.decode(errors="replace"))
            if kind == Kind.DONE:
                break
            if self._is_cancelled:
                if not is_told:
                    child.send(Kind.CANCEL)
                    is_told = True
                continue
            self._has_begun = True
            said.append(payload)
            self._hand_over(payload)
        if self._is_cancelled:
            return
        self._hand_over(self._pause)
        if len(self._text) <= CACHED_CHARACTERS:
            self._phrases.put(self.key, b"".join([*said, self._pause]))
        self._end()

    def fail(self, error: EngineError) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)

    def _hand_over(self, pcm: bytes) -> None:
        with self._lock:
            if not self._is_cancelled:
                self._on_audio(pcm)

    def _end(self) -> None:
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(None)
