"""Where speech begins and pauses, and what of the agent's voice was heard."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.voice.sounds import pcm_of, silence, tone
from voice.engines.contracts import TextToSpeech
from voice.engines.silero import SileroVad
from voice.gate import PAUSE_FRAMES, PAUSE_FRAMES_OVER_VOICE, PRE_ROLL_FRAMES, SpeechGate, Transition, level_of
from voice.playback import GRACE_MS, Playback
from voice.sounds import decode, wav_of

LOUD = tone(32, level_db=-10)
SOFT = tone(32, level_db=-40)


class Scripted:
    """A detector that says what it is told to."""

    frame_samples = 512

    def __init__(self, probabilities: list[float]) -> None:
        self._probabilities = iter(probabilities)

    def __call__(self, frame: bytes) -> float:
        return next(self._probabilities)

    def reset(self) -> None:
        pass


def transitions(probabilities: list[float], frame: bytes = LOUD, playing_db: float | None = None) -> list[str | None]:
    gate = SpeechGate(Scripted(probabilities))
    return [
        mark.transition.value if mark.transition else None
        for _ in probabilities
        for mark in gate.take(frame, playing_db)
    ]


def test_speech_begins_after_two_frames_and_pauses_after_six() -> None:
    assert transitions([0.9, 0.9]) == [None, "started"]
    assert transitions([0.9, 0.1, 0.9]) == [None, None, None]
    seen = transitions([0.9, 0.9, *([0.1] * PAUSE_FRAMES)])
    assert seen[-1] == "paused"
    assert seen.count("paused") == 1


def test_between_the_two_bounds_it_goes_on_as_it_is() -> None:
    assert transitions([0.9, 0.9, *([0.4] * 20)]).count("paused") == 0
    assert transitions([0.4] * 20) == [None] * 20


def test_over_the_agents_voice_it_takes_three_frames_that_are_loud_enough() -> None:
    assert transitions([0.9] * 3, LOUD, playing_db=-20) == [None, "suspected", "started"]
    assert transitions([0.9] * 10, SOFT, playing_db=-20) == [None] * 10
    assert transitions([0.9] * 2, SOFT) == [None, "started"]


def test_over_the_agents_voice_fewer_silent_frames_are_a_pause() -> None:
    seen = transitions([0.9, 0.9, 0.9, *([0.1] * PAUSE_FRAMES)], playing_db=-20)
    assert seen.index("paused") == 2 + PAUSE_FRAMES_OVER_VOICE


def test_over_the_agents_voice_two_frames_are_enough_to_suspect_and_one_to_dismiss() -> None:
    assert transitions([0.9, 0.9, 0.1, 0.9, 0.1], LOUD, playing_db=-20) == [None, "suspected", "dismissed", None, None]
    assert transitions([0.9, 0.1, 0.9], LOUD, playing_db=-20) == [None] * 3


def test_what_came_just_before_is_given_to_the_ears() -> None:
    gate = SpeechGate(Scripted([0.0] * 30 + [0.9, 0.9]))
    marks = [mark for _ in range(32) for mark in gate.take(LOUD)]
    assert marks[-1].transition is Transition.STARTED
    assert len(marks[-1].sound) == (PRE_ROLL_FRAMES + 1) * len(LOUD)
    assert all(not mark.sound for mark in marks[:-1])


@given(st.lists(st.integers(1, 3000), max_size=20))
def test_pieces_of_any_size_make_the_same_frames(sizes: list[int]) -> None:
    gate = SpeechGate(Scripted([0.0] * 1000))
    taken = sum(len(gate.take(bytes(2 * size))) for size in sizes)
    assert taken == sum(sizes) // 512


def test_a_real_sentence_is_one_stretch_of_speech() -> None:
    gate = SpeechGate(SileroVad())
    marks = gate.take(silence(500) + pcm_of("slow-queries") + silence(500))
    assert [mark.transition for mark in marks if mark.transition] == [Transition.STARTED, Transition.PAUSED]


@pytest.mark.parametrize(("leak_db", "starts"), [(-20, False), (-30, False), (-40, False), (None, True)])
def test_the_agents_own_voice_in_the_microphone_is_not_taken_for_somebody(
    mouth: TextToSpeech, leak_db: float | None, starts: bool
) -> None:
    """What a browser's echo cancellation leaves of it is 20 dB softer and more. Without the gate it is speech."""
    pieces: list[bytes] = []
    mouth.speak("The runbook says that slow queries are listed on the dashboard.", pieces.append).done.result()
    said = b"".join(pieces)
    played = decode(wav_of(said, mouth.sample_rate_hz), longest_bytes=1 << 22, longest_s=30)
    leaked = (np.frombuffer(played, "<i2") * 10 ** ((-20 if leak_db is None else leak_db) / 20)).astype("<i2").tobytes()
    loudest = max(level_of(said[start : start + 4410]) for start in range(0, len(said), 4410))
    gate = SpeechGate(SileroVad())
    marks = gate.take(leaked, playing_db=None if leak_db is None else loudest)
    assert any(mark.transition is Transition.STARTED for mark in marks) is starts


def test_levels_are_relative_to_full_scale() -> None:
    assert level_of(tone(100, level_db=-20)) == pytest.approx(-23, abs=0.1)  # of a sine, 3 dB below its peak
    assert level_of(b"") == level_of(bytes(64)) == -120
    assert level_of(np.full(512, -32768, "<i2").tobytes()) == pytest.approx(0.0)


def playing(*, acknowledges: bool = True) -> tuple[Playback, Callable[[int], None]]:
    playback = Playback(1000, acknowledges)

    def send(milliseconds: int, at_ms: float = 0.0) -> None:
        playback.send(bytes(2 * milliseconds), at_ms)

    return playback, send


def test_without_acknowledgements_it_is_heard_in_real_time() -> None:
    playback, send = playing(acknowledges=False)
    playback.begin_sentence("a", 0, "One.")
    send(500)
    assert [playback.heard(at) for at in (0, 200, 500, 900)] == [0, 200, 500, 500]
    assert not playback.is_over(499)
    assert playback.is_over(500)


def test_acknowledgements_say_how_far_it_really_is() -> None:
    playback, send = playing()
    playback.begin_sentence("a", 0, "One.")
    send(1000)
    playback.acknowledge(100, 400.0)
    assert playback.heard(450.0) == 150
    assert playback.ahead_ms(450.0) == 900
    for nonsense in (50, 5000):
        playback.acknowledge(nonsense, 460.0)
    assert playback.heard(460.0) == 160
    assert not playback.is_over(1400.0)
    playback.acknowledge(1000, 1500.0)
    assert playback.is_over(1500.0)


def test_who_never_acknowledges_is_not_waited_for_for_ever() -> None:
    playback, send = playing()
    playback.begin_sentence("a", 0, "One.")
    send(1000)
    assert not playback.is_over(1000.0 + GRACE_MS)
    assert playback.ahead_ms(1000.0 + GRACE_MS) == 1000  # no more is sent meanwhile
    assert playback.is_over(1001.0 + GRACE_MS)
    assert playback.ahead_ms(1001.0 + GRACE_MS) == 0


def test_stopping_tells_what_was_heard_and_begins_anew() -> None:
    playback, send = playing(acknowledges=False)
    playback.begin_sentence("a", 0, "One.")
    send(300)
    playback.begin_sentence("b", 1, "Two.")
    send(300)
    assert playback.sentence_at(350.0) is not None
    position, sentences = playback.stop(400.0)
    assert position == 400
    assert [(one.key, one.start, one.end) for one in sentences] == [("a", 0, 300), ("b", 300, 600)]
    assert playback.is_over(400.0)
    assert playback.sentence_at(400.0) is None
    assert playback.level_db(400.0) is None
