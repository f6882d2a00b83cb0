"""What every engine must do, whichever it is; tried with those that ship."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.patience import PATIENCE_S, eventually
from tests.voice.sounds import frames, noise, pcm_of, silence, tone
from voice.engines import espeak
from voice.engines.contracts import (
    LONGEST_TEXT,
    EngineBusyError,
    EngineCrashedError,
    EngineError,
    EngineMissingError,
    SpeechToText,
    Style,
    TextToSpeech,
    Transcript,
)
from voice.engines.decoding import DecodingPool
from voice.engines.listening import LONGEST_MS, ListeningPool
from voice.engines.silero import SileroVad
from voice.engines.speaking import PhraseCache, SpeakingPool
from voice.engines.wake import WakeWordPool, WakeWordSpotter
from voice.engines.wire import Kind
from voice.engines.workers import Child, Pool

ROOT = Path(__file__).resolve().parent.parent.parent


class TestVoiceActivity:
    def test_it_hears_speech_and_neither_noise_nor_tones_nor_silence(self) -> None:
        detector = SileroVad()

        def loudest(pcm: bytes) -> float:
            detector.reset()
            return max(detector(frame) for frame in frames(pcm))

        assert loudest(pcm_of("slow-queries")) > 0.9
        assert loudest(pcm_of("restart-server")) > 0.9
        assert loudest(silence(2000)) < 0.5
        assert loudest(noise(2000)) < 0.5
        assert loudest(tone(2000)) < 0.5

    def test_two_streams_do_not_disturb_each_other(self) -> None:
        pcm = pcm_of("slow-queries")
        alone = SileroVad()
        expected = [alone(frame) for frame in frames(pcm)]
        one, other = SileroVad(), SileroVad()
        mixed = []
        for frame in frames(pcm):
            mixed.append(one(frame))
            other(bytes(len(frame)))
        assert mixed == expected

    def test_after_a_reset_it_hears_as_at_first(self) -> None:
        detector = SileroVad()
        pcm = pcm_of("stop")
        first = [detector(frame) for frame in frames(pcm)]
        detector.reset()
        assert [detector(frame) for frame in frames(pcm)] == first

    def test_a_frame_of_another_size_is_refused(self) -> None:
        with pytest.raises(ValueError, match="512"):
            SileroVad()(bytes(100))


class TestSpeechToText:
    def test_it_tells_what_it_hears_while_somebody_speaks_and_all_of_it_at_the_end(
        self, any_ears: SpeechToText
    ) -> None:
        partial: list[Transcript] = []
        recognition = any_ears.start(partial.append)
        pcm = pcm_of("slow-queries")
        for frame in frames(pcm):
            recognition.feed(frame)
        final = recognition.finish().result(PATIENCE_S)
        assert final.is_final
        assert "slow queries" in final.text
        assert partial
        assert not any(one.is_final for one in partial)
        assert [one.audio_ms for one in partial] == sorted(one.audio_ms for one in partial)
        assert final.audio_ms == len(list(frames(pcm))) * 32
        assert [word.text for word in final.words] == final.text.split()
        assert all(0 <= word.start_ms < word.end_ms <= final.audio_ms + 20 for word in final.words)
        assert all(0 <= word.confidence <= 1 for word in final.words)
        assert final.language == "en"

    def test_it_hears_nothing_in_silence(self, any_ears: SpeechToText) -> None:
        recognition = any_ears.start(lambda transcript: None)
        recognition.feed(silence(600))
        assert recognition.finish().result(PATIENCE_S).text == ""

    def test_it_hears_nothing_in_nothing(self, any_ears: SpeechToText) -> None:
        assert any_ears.start(lambda transcript: None).finish().result(PATIENCE_S).text == ""

    def test_what_is_cancelled_leaves_the_engine_to_the_next(self, any_ears: SpeechToText) -> None:
        cancelled = any_ears.start(lambda transcript: None)
        cancelled.feed(pcm_of("slow-queries"))
        cancelled.cancel()
        assert cancelled.finish().cancelled()
        following = any_ears.start(lambda transcript: None)
        following.feed(pcm_of("restart-server"))
        assert "restart" in following.finish().result(PATIENCE_S).text

    def test_more_than_can_be_heard_at_a_stretch_is_refused(self, any_ears: SpeechToText) -> None:
        recognition = any_ears.start(lambda transcript: None)
        try:
            with pytest.raises(EngineBusyError, match="300 s"):
                recognition.feed(silence(LONGEST_MS + 1))
        finally:
            recognition.cancel()

    def test_a_process_that_dies_in_the_middle_is_replaced_and_nothing_is_lost(self, any_ears: SpeechToText) -> None:
        assert isinstance(any_ears, ListeningPool | DecodingPool)
        heard = threading.Event()
        recognition = any_ears.start(lambda transcript: heard.set())
        pcm = pcm_of("slow-queries")
        recognition.feed(pcm[: len(pcm) // 2])
        assert heard.wait(PATIENCE_S)
        (pid,) = any_ears.pool.child_pids()
        os.kill(pid, signal.SIGKILL)
        recognition.feed(pcm[len(pcm) // 2 :])
        assert "slow queries" in recognition.finish().result(PATIENCE_S).text
        again = any_ears.start(lambda transcript: None)
        again.feed(pcm_of("which-cache"))
        assert "cache" in again.finish().result(PATIENCE_S).text.replace("cash", "cache")

    def test_it_hears_as_ever_when_it_was_prepared_for_a_vocabulary_or_for_one_that_is_not_there(
        self, any_ears: SpeechToText
    ) -> None:
        for vocabulary in (None, Path("/nowhere.lm.bin")):
            any_ears.prepare(vocabulary)
            recognition = any_ears.start(lambda transcript: None)
            recognition.feed(pcm_of("slow-queries"))
            assert recognition.finish().result(PATIENCE_S).text

    def test_a_vocabulary_that_is_not_there_is_an_error_and_no_crash(self, any_ears: SpeechToText) -> None:
        recognition = any_ears.start(lambda transcript: None, Path("/nowhere/at.all.lm.bin"))
        with pytest.raises(EngineError):
            recognition.finish().result(PATIENCE_S)
        assert any_ears.start(lambda transcript: None).finish().result(PATIENCE_S).text == ""

    def test_closing_ends_its_processes(self) -> None:
        engine = ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=1)
        engine.warm_up()
        (pid,) = engine.pool.child_pids()
        engine.close()
        assert engine.pool.child_pids() == []
        eventually(lambda: not Path(f"/proc/{pid}").exists())


@pytest.fixture(scope="module")
def spotter() -> Iterator[WakeWordSpotter]:
    engine = WakeWordPool(size=1)
    yield engine
    engine.close()


class TestWakeWord:
    def watched(self, spotter: WakeWordSpotter, pcm: bytes, phrase: str = "leonardo") -> list[int]:
        """Where the phrase ended, in milliseconds; empty when it was not heard."""
        woken: list[int] = []
        watch = spotter.watch(phrase, woken.append)
        for frame in frames(pcm):
            watch.feed(frame)
        assert watch.finish().result(PATIENCE_S) is bool(woken)
        return woken

    def test_it_hears_its_phrase_and_where_it_ends(self, spotter: WakeWordSpotter) -> None:
        (at_ms,) = self.watched(spotter, silence(300) + pcm_of("leonardo-which-cache"))
        assert 500 < at_ms < 1300

    @pytest.mark.parametrize("name", ["leonard-cohen", "slow-queries", "which-cache", "stop"])
    def test_it_hears_it_in_nothing_else(self, spotter: WakeWordSpotter, name: str) -> None:
        assert self.watched(spotter, pcm_of(name)) == []

    def test_it_hears_nothing_in_noise_or_nothing(self, spotter: WakeWordSpotter) -> None:
        assert self.watched(spotter, noise(1000)) == []
        assert self.watched(spotter, b"") == []

    def test_it_tells_while_somebody_still_speaks(self, spotter: WakeWordSpotter) -> None:
        heard = threading.Event()
        watch = spotter.watch("Leonardo", lambda at_ms: heard.set())
        watch.feed(silence(300) + pcm_of("leonardo-which-cache"))
        assert heard.wait(PATIENCE_S)
        watch.cancel()
        assert watch.finish().cancelled()

    def test_a_phrase_that_nobody_can_pronounce_is_an_error_and_no_crash(self, spotter: WakeWordSpotter) -> None:
        with pytest.raises(EngineError, match="xqzt"):
            spotter.watch("xqzt", lambda at_ms: None).finish().result(PATIENCE_S)
        with pytest.raises(EngineError, match="no phrase"):
            spotter.watch(" ", lambda at_ms: None).finish().result(PATIENCE_S)
        assert self.watched(spotter, pcm_of("which-cache"), "which cache")


class TestTextToSpeech:
    def said(self, mouth: TextToSpeech, text: str, **about: object) -> bytes:
        pieces: list[bytes] = []
        mouth.speak(text, pieces.append, **about).done.result(PATIENCE_S)  # type: ignore[arg-type]
        return b"".join(pieces)

    def test_it_speaks_in_pieces(self, any_mouth: TextToSpeech) -> None:
        pieces: list[bytes] = []
        text = "The index is rebuilt at night, which takes about four minutes, and nobody notices it at all."
        any_mouth.speak(text, pieces.append).done.result(PATIENCE_S)
        samples = np.frombuffer(b"".join(pieces), "<i2")
        assert len(pieces) > 3
        assert len(samples) > 2 * any_mouth.sample_rate_hz
        assert np.abs(samples).max() > 3000

    @pytest.mark.parametrize("style", list(Style))
    def test_every_style_and_voice_speaks(self, any_mouth: TextToSpeech, style: Style) -> None:
        for voice in any_mouth.voices():
            assert len(self.said(any_mouth, "One and two.", style=style, voice=voice)) > any_mouth.sample_rate_hz

    def test_styles_differ_in_pace(self, any_mouth: TextToSpeech) -> None:
        text = "Each query is embedded once, and its neighbours are looked up in the index of its collection."
        teaching = self.said(any_mouth, text, style=Style.TEACHING)
        encouraging = self.said(any_mouth, text, style=Style.ENCOURAGING)
        assert len(teaching) > 1.1 * len(encouraging)

    def test_what_is_cancelled_is_silent_at_once_and_the_next_is_whole(self, any_mouth: TextToSpeech) -> None:
        pieces: list[bytes] = []
        begun = threading.Event()

        def take(pcm: bytes) -> None:
            pieces.append(pcm)
            begun.set()

        whole = self.said(any_mouth, "And now something else.")
        utterance = any_mouth.speak("nine hundred and ninety nine bottles. " * 25, take)
        assert begun.wait(PATIENCE_S)
        utterance.cancel()
        count = len(pieces)
        assert self.said(any_mouth, "And now something else.") == whole
        # A phrase that is remembered asks no process, so another one shows that the process is free again.
        assert self.said(any_mouth, "This was never said before.")
        assert len(pieces) == count
        assert utterance.done.cancelled()

    def test_a_cancellation_that_comes_too_late_does_not_silence_what_is_said_next(self) -> None:
        child = Child(espeak.MODULE)
        request = {"text": "Good afternoon.", "voice": "en-gb", "rate": 1, "pitch": 1, "pitch_range": 1}

        def said() -> int:
            child.send(Kind.START, json.dumps(request).encode())
            count = 0
            while (answer := child.receive())[0] != Kind.DONE:
                count += len(answer[1])
            return count

        try:
            whole = said()
            child.send(Kind.CANCEL)
            assert said() == pytest.approx(whole, rel=0.1)
        finally:
            child.end()

    def test_nothing_to_say_is_said_in_no_time(self, any_mouth: TextToSpeech) -> None:
        for nothing in ("", "   ", "…"):
            self.said(any_mouth, nothing)

    def test_markup_is_read_and_not_obeyed(self, any_mouth: TextToSpeech) -> None:
        assert self.said(any_mouth, '<audio src="/etc/passwd"/><mark name="x"/> hello \x00 there [[h@l"oU]]')

    def test_too_much_or_an_unknown_voice_is_refused(self, any_mouth: TextToSpeech) -> None:
        with pytest.raises(ValueError, match=str(LONGEST_TEXT)):
            any_mouth.speak("x" * (LONGEST_TEXT + 1), lambda pcm: None)
        with pytest.raises(ValueError, match="no voice"):
            any_mouth.speak("hello", lambda pcm: None, voice="nobody")

    def test_a_process_that_died_is_replaced(self, any_mouth: TextToSpeech) -> None:
        assert isinstance(any_mouth, SpeakingPool)
        self.said(any_mouth, "A first sentence, which is not remembered by anybody.")
        (pid,) = any_mouth.pool.child_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not Path(f"/proc/{pid}/exe").exists())
        assert self.said(any_mouth, "A second sentence, which is not remembered by anybody.")

    def test_short_phrases_are_remembered(self, any_mouth: TextToSpeech) -> None:
        assert isinstance(any_mouth, SpeakingPool)
        first = self.said(any_mouth, "Shall I go on?")
        assert any_mouth.phrases.get(("Shall I go on?", any_mouth.voices()[0], Style.EXPLAINING.value)) == first

    def test_the_memory_of_phrases_is_bounded(self) -> None:
        phrases = PhraseCache(100)
        for number in range(20):
            phrases.put((str(number),), bytes(30))
        assert phrases.size_bytes <= 100
        assert phrases.get(("19",)) is not None
        assert phrases.get(("0",)) is None


class TestChildren:
    def test_something_that_is_no_engine_is_told_with_what_it_said(self) -> None:
        with pytest.raises(EngineCrashedError, match="No module named"):
            Child("voice.engines.no_such_child")

    def test_a_child_that_can_not_begin_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("voice.engines.workers.ROOT", tmp_path)
        (tmp_path / "unready.py").write_text("import sys\nsys.stdout.buffer.write(b'E\\x05\\x00\\x00\\x00hello')\n")
        with pytest.raises(EngineMissingError, match="hello"):
            Child("unready")

    def test_a_child_that_goes_silent_is_given_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("voice.engines.workers.ROOT", tmp_path)
        ready = "import sys\nsys.stdout.buffer.write(b'R\\x00\\x00\\x00\\x00')\nsys.stdout.flush()\n"
        (tmp_path / "silent.py").write_text(f"{ready}sys.stdin.buffer.read()\n")
        child = Child("silent", answer_timeout_s=0.05)
        try:
            with pytest.raises(EngineCrashedError, match="nothing for too long"):
                child.ask(b"S")
        finally:
            child.end()

    def test_each_child_does_a_chore_once(self) -> None:
        pool = Pool("voice.engines.pocketsphinx_child", size=2)
        done: list[int] = []
        try:
            for number in (1, 2):
                pool.prepare(lambda child: done.append(child.pid))
                eventually(lambda number=number: len(done) == 2 * number)  # type: ignore[misc]
                assert sorted(done[-2:]) == sorted(pool.child_pids())
        finally:
            pool.close()

    def test_no_engine_brings_torch_along(self) -> None:
        code = (
            "import sys, voice.engines.silero, voice.engines.listening, voice.engines.speaking\n"
            "voice.engines.silero.SileroVad()(bytes(1024))\n"
            "assert 'torch' not in sys.modules and 'silero_vad' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
