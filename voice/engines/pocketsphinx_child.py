"""The process in which PocketSphinx listens: it holds the interpreter for a second at a time. See `wire`.

START {"vocabulary": path or null, "speaker": what DONE said of them} · AUDIO pcm · FINISH · CANCEL. Each is answered:
READY, PARTIAL or DONE with JSON.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

from voice.engines.contracts import BYTES_PER_MS
from voice.engines.vocabularies import pronunciations
from voice.engines.wire import Kind, frame, read_frame

KEPT_VOCABULARIES = 4
"""Language models that stay loaded; one takes about 20 MB."""
STOCK = "stock"
MARKS = re.compile(r"<[^>]*>|\[[^\]]*\]|\(\d+\)")
"""What a hypothesis holds beside words: silence, noises, and which pronunciation it was."""


class Ears:
    """A decoder, with the vocabularies that it knows."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(loglevel="FATAL")
        self._stock: str = self._decoder.current_search()
        self._anybody: str = self._decoder.get_cmn(False)
        self._known: OrderedDict[str, str] = OrderedDict()
        self._added: set[str] = set()
        self._is_open = False
        self._fed_bytes = 0
        self._spent_s = 0.0

    def start(self, vocabulary: str | None, speaker: str) -> None:
        self.cancel()
        # The means of the cepstrum go on from one utterance to the next: another voice, or silence, spoils them.
        self._decoder.set_cmn(speaker or self._anybody)
        self._decoder.activate_search(self._search_of(vocabulary))
        self._decoder.start_utt()
        self._is_open, self._fed_bytes, self._spent_s = True, 0, 0.0

    def feed(self, pcm: bytes) -> dict[str, Any]:
        started = time.perf_counter()
        self._decoder.process_raw(pcm, no_search=False, full_utt=False)
        self._fed_bytes += len(pcm)
        text = self._text()
        self._spent_s += time.perf_counter() - started
        return self._answer(text, self._spent_s)

    def finish(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._decoder.end_utt()
        self._is_open = False
        text = self._text()
        words = self._words() if text else []
        answer = self._answer(text, time.perf_counter() - started)
        answer["words"] = words
        answer["speaker"] = self._decoder.get_cmn(True) if words else ""
        answer["confidence"] = round(sum(word[3] for word in words) / len(words), 3) if words else 0.0
        return answer

    def cancel(self) -> None:
        if self._is_open:
            self._decoder.end_utt()
            self._is_open = False

    def _search_of(self, vocabulary: str | None) -> str:
        if vocabulary is None:
            return self._stock
        if vocabulary in self._known:
            self._known.move_to_end(vocabulary)
            return self._known[vocabulary]
        while len(self._known) >= KEPT_VOCABULARIES:
            _, oldest = self._known.popitem(last=False)
            self._decoder.remove_search(oldest)
        name = f"vocabulary-{time.monotonic_ns()}"
        new = [(word, phones) for word, phones in pronunciations(Path(vocabulary)) if word not in self._added]
        for word, phones in new:
            # Only the last one's update has the decoder take notice of all of them.
            self._decoder.add_word(word, phones, word == new[-1][0])
            self._added.add(word)
        self._decoder.add_lm_file(name, vocabulary)
        self._known[vocabulary] = name
        return name

    def _text(self) -> str:
        hypothesis = self._decoder.hyp()
        return " ".join(MARKS.sub(" ", hypothesis.hypstr).split()) if hypothesis is not None else ""

    def _words(self) -> list[tuple[str, int, int, float]]:
        logarithms = self._decoder.logmath
        heard = []
        for segment in self._decoder.seg():
            text = MARKS.sub("", segment.word).strip()
            if text:
                confidence = min(max(logarithms.exp(segment.prob), 0.0), 1.0)
                heard.append((text, segment.start_frame * 10, (segment.end_frame + 1) * 10, round(confidence, 3)))
        return heard

    def _answer(self, text: str, spent_s: float) -> dict[str, Any]:
        return {"text": text, "audio_ms": self._fed_bytes // BYTES_PER_MS, "processing_ms": round(spent_s * 1000, 2)}


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
                ears.start(**json.loads(payload))
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
