"""The process in which PocketSphinx listens for a phrase.

It speaks as `voice.engines.pocketsphinx_child` does, with the phrase in place of a speaker, and hears that or nothing.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from voice.engines.contracts import BYTES_PER_MS
from voice.engines.wire import Kind, frame, read_frame

THRESHOLD = "1e-20"
"""How likely the phrase must be beside anything else. With "leonardo" 21 of 21 were found, by seven synthetic voices,
and none of 56 other sentences, "Leonard Cohen" and "the leopard" among them. From 1e-15 to 1e-30 nothing changes."""
MS_PER_FRAME = 10


class PhraseError(ValueError):
    """The phrase can't be listened for."""


class Ears:
    """A decoder, for the last phrase that was asked for."""

    def __init__(self) -> None:
        import pocketsphinx

        self._make = pocketsphinx.Decoder
        self._phrase = ""
        self._decoder: Any = None
        self._is_open = False
        self._fed_bytes = 0
        self._found: list[tuple[str, int, int, float]] = []

    def start(self, phrase: str) -> None:
        self.cancel()
        if phrase != self._phrase:
            self._decoder, self._phrase = self._of(phrase), phrase
        self._decoder.start_utt()
        self._is_open, self._fed_bytes, self._found = True, 0, []

    def feed(self, pcm: bytes) -> dict[str, Any]:
        started = time.perf_counter()
        self._decoder.process_raw(pcm, no_search=False, full_utt=False)
        self._fed_bytes += len(pcm)
        return self._answer(started)

    def finish(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._decoder.end_utt()
        self._is_open = False
        return self._answer(started)

    def cancel(self) -> None:
        if self._is_open:
            self._decoder.end_utt()
            self._is_open = False

    def _of(self, phrase: str) -> Any:
        if not phrase.strip():
            raise PhraseError("there is no phrase to listen for")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "phrase.kws"
            path.write_text(f"{phrase} /{THRESHOLD}/\n", encoding="utf-8")
            decoder = self._make(kws=str(path), lm=None, loglevel="FATAL")
        for word in phrase.split():
            if decoder.lookup_word(word) is None:
                raise PhraseError(f"'{word}' is in no dictionary of how words sound: choose another word")
        return decoder

    def _answer(self, started: float) -> dict[str, Any]:
        if not self._found and self._decoder.hyp() is not None:
            end_ms = max(segment.end_frame for segment in self._decoder.seg()) * MS_PER_FRAME
            audio_ms = self._fed_bytes // BYTES_PER_MS
            self._found = [(self._phrase, 0, max(min(end_ms, audio_ms), 1), 1.0)]
        return {
            "text": self._phrase if self._found else "",
            "words": self._found,
            "audio_ms": self._fed_bytes // BYTES_PER_MS,
            "processing_ms": round((time.perf_counter() - started) * 1000, 2),
        }


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, content: object = None) -> None:
        sink.write(frame(kind, b"" if content is None else json.dumps(content).encode()))
        sink.flush()

    try:
        ears = Ears()
    except ImportError:
        say(Kind.ERROR, "PocketSphinx is not installed: .venv/bin/pip install pocketsphinx.")
        return
    say(Kind.READY)
    while (message := read_frame(source)) is not None:
        kind, payload = message
        try:
            if kind == Kind.START:
                ears.start(json.loads(payload)["speaker"])
                say(Kind.READY)
            elif kind == Kind.AUDIO:
                say(Kind.PARTIAL, ears.feed(payload))
            elif kind == Kind.FINISH:
                say(Kind.DONE, ears.finish())
            else:
                ears.cancel()
                say(Kind.READY)
        except Exception as error:
            say(Kind.ERROR, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
