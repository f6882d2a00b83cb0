"""The process in which Piper speaks: it is under the GPL, and nothing else here imports it. See `wire`.

python -m voice.engines.piper_child '{"model": path, "speakers": {name: id}}'

START {"text", "voice", "rate", "pitch", "pitch_range"} is answered by many AUDIO with PCM and one DONE; CANCEL, which
may come in the middle, ends them. Piper has no pitch; a lively manner varies more in sound and in length.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from voice.engines.wire import Kind, frame, read_frame

PIECE_MS = 60


class Mouth:
    """The loaded voice."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        from piper import PiperVoice

        self._voice = PiperVoice.load(options["model"])
        self._speakers: dict[str, int] = options["speakers"]
        self.is_cancelled = threading.Event()

    def speak(self, request: Mapping[str, Any], on_audio: Callable[[bytes], None]) -> None:
        from piper import SynthesisConfig

        config = self._voice.config
        how = SynthesisConfig(
            speaker_id=self._speakers.get(request["voice"]),
            length_scale=config.length_scale / request["rate"],
            noise_scale=config.noise_scale * request["pitch_range"],
            noise_w_scale=config.noise_w_scale * request["pitch_range"],
        )
        # Two brackets would have it read phonemes.
        text = request["text"].replace("\x00", " ").replace("[[", "[ [")
        for sentence in self._voice.synthesize(text, how):
            pcm = sentence.audio_int16_bytes
            size = 2 * (sentence.sample_rate * PIECE_MS // 1000)
            for start in range(0, len(pcm), size):
                if self.is_cancelled.is_set():
                    return
                on_audio(pcm[start : start + size])


def main(options: str) -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, payload: bytes = b"") -> None:
        sink.write(frame(kind, payload))
        sink.flush()

    try:
        mouth = Mouth(json.loads(options))
    except ImportError:
        say(Kind.ERROR, b"Piper is not installed: .venv/bin/pip install -r requirements/piper.txt.")
        return
    except Exception as error:  # ONNX Runtime has classes of its own for each way in which a file can be damaged
        say(Kind.ERROR, f"The Piper voice can't be loaded: {type(error).__name__}: {error}".encode())
        return
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def listen() -> None:
        while (message := read_frame(source)) is not None:
            kind, payload = message
            if kind == Kind.CANCEL:
                mouth.is_cancelled.set()
            else:
                # A cancellation that came too late for the last request is none of this one.
                mouth.is_cancelled.clear()
                requests.put(payload)
        mouth.is_cancelled.set()
        requests.put(None)

    threading.Thread(target=listen, daemon=True).start()
    say(Kind.READY)
    while (payload := requests.get()) is not None:
        try:
            mouth.speak(json.loads(payload), lambda pcm: say(Kind.AUDIO, pcm))
            say(Kind.DONE)
        except Exception as error:
            say(Kind.ERROR, f"{type(error).__name__}: {error}".encode())


if __name__ == "__main__":
    main(sys.argv[1])
