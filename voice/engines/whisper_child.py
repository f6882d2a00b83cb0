"""The process in which faster-whisper listens. See `wire`.

python -m voice.engines.whisper_child '{"folder": …, "device": …, "compute_type": …, "threads": …, "beam_size": …,
"language": …}'

START {"vocabulary": path or null, "is_final": …}, AUDIO pcm and FINISH are answered by one DONE with JSON, or ERROR.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voice.engines.contracts import BYTES_PER_MS
from voice.engines.vocabularies import hot_words_of
from voice.engines.wire import Kind, frame, read_frame

SHORTEST_MS = 100
"""Of less nothing can be heard."""
RETRY_TEMPERATURE = 0.4
"""With which a transcript that repeats itself, or that the model does not believe in, is decoded once more."""


class Ears:
    """The loaded model. What is heard depends on nothing that was heard before."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        from faster_whisper import WhisperModel

        self._model = WhisperModel(
            options["folder"],
            device=options["device"],
            compute_type=options["compute_type"],
            cpu_threads=options["threads"],
            local_files_only=True,
        )
        self._beam_size = options["beam_size"]
        self._language = options["language"] or (None if self._model.model.is_multilingual else "en")

    def hear(self, pcm: bytes, vocabulary: str | None, *, is_final: bool) -> dict[str, Any]:
        import numpy as np

        started = time.perf_counter()
        hot_words = hot_words_of(Path(vocabulary)) if vocabulary else None
        audio_ms = len(pcm) // BYTES_PER_MS
        heard: dict[str, Any] = {"text": "", "audio_ms": audio_ms, "language": self._language or "en"}
        if audio_ms >= SHORTEST_MS:
            segments, info = self._model.transcribe(
                np.frombuffer(pcm, "<i2").astype(np.float32) / 32768,
                language=self._language,
                beam_size=self._beam_size if is_final else 1,
                temperature=[0.0, RETRY_TEMPERATURE] if is_final else 0.0,
                condition_on_previous_text=False,
                word_timestamps=is_final,
                # In silence Whisper hears what people say at the end of films.
                vad_filter=True,
                hotwords=hot_words,
            )
            found = list(segments)  # they are decoded while they are read
            heard["text"] = " ".join(" ".join(segment.text.split()) for segment in found)
            heard["language"] = info.language
            if is_final:
                heard |= _detail(found, audio_ms)
                heard["text"] = " ".join(word[0] for word in heard["words"])
        heard["processing_ms"] = round((time.perf_counter() - started) * 1000, 2)
        return heard


def _detail(segments: list[Any], audio_ms: int) -> dict[str, Any]:
    """The words with their places, and how sure the model is of all of them."""
    words = []
    for segment in segments:
        for word in segment.words:
            start_ms = min(max(round(word.start * 1000), 0), max(audio_ms - 20, 0))
            end_ms = min(max(round(word.end * 1000), start_ms + 10), audio_ms)
            # A word may bring its neighbour's punctuation along, and a space before it.
            words += [(text, start_ms, end_ms, round(float(word.probability), 3)) for text in word.word.split()]
    tokens = sum(len(segment.tokens) for segment in segments)
    mean = sum(segment.avg_logprob * len(segment.tokens) for segment in segments) / tokens if tokens else 0.0
    return {"words": words, "confidence": round(min(math.exp(mean), 1.0), 3) if tokens else 0.0}


def main(options: str) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, content: object = None) -> None:
        payload = b"" if content is None else (content if isinstance(content, str) else json.dumps(content)).encode()
        sink.write(frame(kind, payload))
        sink.flush()

    try:
        ears = Ears(json.loads(options))
    except ImportError:
        say(Kind.ERROR, "faster-whisper is not installed: .venv/bin/pip install -r requirements/whisper.txt.")
        return
    except Exception as error:  # CTranslate2 raises whatever it likes of a damaged file
        say(Kind.ERROR, f"The Whisper model can't be loaded: {type(error).__name__}: {error}")
        return
    say(Kind.READY)
    while (message := read_frame(source)) is not None:
        request = json.loads(message[1])
        pcm = bytearray()
        while (message := read_frame(source)) is not None and message[0] == Kind.AUDIO:
            pcm += message[1]
        try:
            say(Kind.DONE, ears.hear(bytes(pcm), **request))
        except Exception as error:
            say(Kind.ERROR, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
