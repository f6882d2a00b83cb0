"""The process in which eSpeak NG speaks: its library is under the GPL, and nothing else here loads it. See `wire`.

START {"text", "voice", "rate", "pitch", "pitch_range"} is answered by many AUDIO with PCM and one DONE; CANCEL, which
may come in the middle, ends them.
"""

from __future__ import annotations

import ctypes
import json
import queue
import sys
import threading
from collections.abc import Mapping
from typing import Any

from voice.engines.espeak import VOICES
from voice.engines.wire import Kind, frame, read_frame

AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
CHARS_UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4
NORMAL_RATE = 165
"""Words per minute at which the voice is calm; eSpeak's own is 175."""
NORMAL_PITCH = NORMAL_RANGE = 50
CHUNK_MS = 60
"""Sound of one callback: how soon the first is heard, and how soon a cancellation is."""

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class Mouth:
    """The library, initialised once for a process."""

    def __init__(self) -> None:
        import espeakng_loader

        self._library: Any = ctypes.CDLL(espeakng_loader.get_library_path())
        self.sample_rate_hz = self._library.espeak_Initialize(
            AUDIO_OUTPUT_SYNCHRONOUS, CHUNK_MS, espeakng_loader.get_data_path().encode(), INITIALIZE_DONT_EXIT
        )
        if self.sample_rate_hz <= 0:
            raise OSError("eSpeak NG can't read its data.")
        self.is_cancelled = threading.Event()
        self._on_audio: Any = None
        self._callback = Callback(self._take)  # kept: the library holds a bare pointer
        self._library.espeak_SetSynthCallback(self._callback)

    def speak(self, request: Mapping[str, Any], on_audio: Any) -> None:
        if self._library.espeak_SetVoiceByName(VOICES[request["voice"]].encode()) != 0:
            raise ValueError(f"there is no voice '{request['voice']}'")
        for parameter, value in (
            (RATE, NORMAL_RATE * request["rate"]),
            (PITCH, NORMAL_PITCH * request["pitch"]),
            (RANGE, NORMAL_RANGE * request["pitch_range"]),
        ):
            self._library.espeak_SetParameter(parameter, round(value), 0)
        self._on_audio = on_audio
        text = request["text"].replace("\x00", " ").encode() + b"\x00"
        self._library.espeak_Synth(text, ctypes.c_size_t(len(text)), 0, 1, 0, CHARS_UTF8, None, None)
        self._library.espeak_Synchronize()

    def _take(self, samples: Any, count: int, events: Any) -> int:
        if self.is_cancelled.is_set():
            return 1
        if samples and count > 0:
            self._on_audio(ctypes.string_at(samples, count * 2))
        return 0


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer

    def say(kind: bytes, payload: bytes = b"") -> None:
        sink.write(frame(kind, payload))
        sink.flush()

    try:
        mouth = Mouth()
    except ImportError:
        say(Kind.ERROR, b"eSpeak NG is not installed: .venv/bin/pip install espeakng-loader.")
        return
    except OSError as error:
        say(Kind.ERROR, f"eSpeak NG can't be loaded: {error}".encode())
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
    say(Kind.READY, json.dumps({"sample_rate_hz": mouth.sample_rate_hz}).encode())
    while (payload := requests.get()) is not None:
        try:
            mouth.speak(json.loads(payload), lambda pcm: say(Kind.AUDIO, pcm))
            say(Kind.DONE)
        except Exception as error:
            say(Kind.ERROR, f"{type(error).__name__}: {error}".encode())


if __name__ == "__main__":
    main()
