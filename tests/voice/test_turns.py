"""The turn manager with a scripted clock: every event in every state, and nobody ever speaks twice at once."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voice.recipes import SHIPPED_JUDGE
from voice.turns.endpointing import Completeness, Waits, completeness
from voice.turns.interruption_model import InterruptionModel
from voice.turns.interruptions import Interruption, Moment, Rules, reply_to_offer
from voice.turns.manager import (
    AnswerFailed,
    AnswerSounds,
    Asked,
    BeginTurn,
    CancelTurn,
    Committed,
    DropHeld,
    Duck,
    Effect,
    Event,
    ForgetSpeech,
    Heard,
    OfferResume,
    PlaybackEnded,
    ResumeSpeaking,
    Situation,
    SpeechEnded,
    SpeechStarted,
    State,
    Stopped,
    StopSpeaking,
    Tick,
    TurnManager,
    Unduck,
)


class Script:
    """A manager, and a clock that only moves when told."""

    def __init__(self, **options: object) -> None:
        self.manager = TurnManager(**options)  # type: ignore[arg-type]
        self.now_ms = 1000.0

    def do(self, event: Event, after_ms: float = 0) -> list[Effect]:
        self.now_ms += after_ms
        return self.manager.handle(event, self.now_ms)

    def wait(self, duration_ms: float) -> list[Effect]:
        return self.do(Tick(), duration_ms)

    def say(self, text: str) -> list[Effect]:
        """A whole utterance, with its final transcript; what comes of it once the silence is long enough."""
        effects = self.do(SpeechStarted())
        effects += self.do(Heard(text), 400)
        effects += self.do(SpeechEnded(self.now_ms), 200)
        effects += self.do(Heard(text, is_final=True))
        return effects + self.wait(1100)

    def ask_and_hear(self) -> None:
        self.say("what is a good answer")
        self.do(AnswerSounds())
        assert self.state is State.SPEAKING

    @property
    def state(self) -> State:
        return self.manager.state


class TestATurn:
    def test_a_question_is_answered_and_then_it_listens_again(self) -> None:
        script = Script()
        assert script.say("what is bm25") == [BeginTurn("what is bm25")]
        assert script.state is State.THINKING
        assert script.do(AnswerSounds()) == [ForgetSpeech("answered")]
        assert script.state is State.SPEAKING
        assert script.do(PlaybackEnded(), 5000) == []
        assert script.state is State.LISTENING

    def test_a_finished_question_waits_a_quarter_of_a_second_and_an_open_one_a_whole(self) -> None:
        for text, wait_ms in (("what is the limit", 250), ("the limit", 450), ("what is the limit and", 1000)):
            script = Script()
            script.do(SpeechStarted())
            script.do(Heard(text), 500)
            script.do(SpeechEnded(script.now_ms))
            script.do(Heard(text, is_final=True))
            assert script.wait(wait_ms - 1) == []
            assert script.state is State.ENDPOINTING
            assert script.wait(1) == [BeginTurn(text)]

    def test_who_goes_on_after_a_pause_is_one_turn(self) -> None:
        script = Script()
        script.do(SpeechStarted())
        script.do(SpeechEnded(script.now_ms), 300)
        script.do(Heard("how do i restart the server and", is_final=True))
        assert script.do(SpeechStarted(), 800) == []
        assert script.state is State.LISTENING
        script.do(Heard("how do i restart the server and the database"), 600)
        script.do(SpeechEnded(script.now_ms))
        script.do(Heard("how do i restart the server and the database", is_final=True))
        assert script.wait(250) == [BeginTurn("how do i restart the server and the database")]

    def test_the_final_transcript_is_waited_for_but_not_for_ever(self) -> None:
        script = Script()
        script.do(SpeechStarted())
        script.do(Heard("what is it"), 300)
        script.do(SpeechEnded(script.now_ms))
        assert script.wait(2000) == []
        assert script.do(Heard("what is this", is_final=True)) == [BeginTurn("what is this")]
        script = Script()
        script.do(SpeechStarted())
        script.do(Heard("what is that thing"), 300)
        script.do(SpeechEnded(script.now_ms))
        script.wait(2000)
        assert script.wait(2000) == [BeginTurn("what is that thing")]

    def test_a_noise_is_no_turn(self) -> None:
        script = Script()
        assert script.say("") == [ForgetSpeech("nothing")]
        assert script.state is State.LISTENING

    def test_speech_that_goes_on_before_anything_was_heard_takes_the_turn_back(self) -> None:
        script = Script()
        script.say("what is the limit")
        script.do(SpeechStarted(), 50)
        assert script.do(Heard("what is the limit of queries"), 300) == [CancelTurn()]
        assert script.state is State.LISTENING
        script.do(SpeechEnded(script.now_ms), 100)
        script.do(Heard("what is the limit of queries", is_final=True))
        assert script.wait(250) == [BeginTurn("what is the limit of queries")]

    def test_a_cough_while_it_thinks_takes_nothing_back(self) -> None:
        script = Script()
        script.say("what is the limit")
        script.do(SpeechStarted())
        script.do(SpeechEnded(script.now_ms), 100)
        assert script.do(Heard("what is the limit", is_final=True)) == []
        assert script.state is State.THINKING

    def test_a_monologue_ends(self) -> None:
        script = Script()
        script.do(SpeechStarted())
        script.do(Heard("and so on and"), 1000)
        script.wait(60_000)
        assert script.do(Heard("and so on and on", is_final=True)) == [BeginTurn("and so on and on")]

    def test_with_a_button_only_letting_go_ends_a_turn(self) -> None:
        script = Script(hands_free=False)
        assert script.say("what is the limit") == []
        assert script.state is State.LISTENING
        assert script.do(Committed()) == [BeginTurn("what is the limit")]
        script = Script(hands_free=False)
        script.do(SpeechStarted())
        assert script.do(Committed(), 500) == []
        assert script.do(Heard("what is the limit", is_final=True)) == [BeginTurn("what is the limit")]

    def test_whoever_let_go_is_heard_to_the_end_however_slowly(self) -> None:
        script = Script(hands_free=False)
        script.do(SpeechStarted())
        script.do(Heard("what is"))
        assert script.do(Committed()) == []
        assert script.do(Tick(), 10_000) == []
        assert script.do(Heard("what is the limit", is_final=True)) == [BeginTurn("what is the limit")]

    def test_a_typed_question_comes_first(self) -> None:
        for prepare in (lambda s: None, lambda s: s.say("what is it now"), lambda s: s.ask_and_hear()):
            script = Script()
            prepare(script)
            effects = script.do(Asked("why"))
            assert effects[-1] == BeginTurn("why")
            assert script.state is State.THINKING

    def test_an_answer_that_fails_leaves_it_listening(self) -> None:
        script = Script()
        script.say("what is the limit")
        script.do(AnswerFailed())
        assert script.state is State.LISTENING
        assert script.say("what is the limit") == [BeginTurn("what is the limit")]


class TestInterruptions:
    def test_speech_over_its_voice_ducks_it_at_once(self) -> None:
        script = Script()
        script.ask_and_hear()
        assert script.do(SpeechStarted()) == [Duck()]
        assert script.state is State.INTERRUPTED

    @pytest.mark.parametrize("text", ["right", "yeah okay", "mm hm", "", "but"])
    def test_a_back_channel_or_noise_does_not_stop_it(self, text: str) -> None:
        script = Script()
        script.ask_and_hear()
        script.do(SpeechStarted())
        assert script.do(Heard(text), 200) == []
        script.do(SpeechEnded(script.now_ms), 100)
        effects = script.do(Heard(text, is_final=True), 100)
        assert effects[0] == Unduck()
        assert script.state is State.SPEAKING

    def test_a_question_stops_it_is_answered_and_the_rest_offered(self) -> None:
        script = Script()
        script.ask_and_hear()
        script.do(SpeechStarted())
        assert script.do(Heard("wait which cache"), 300) == []
        effects = script.wait(100)
        assert effects == [StopSpeaking(hold=True, kind=Interruption.QUESTION), Unduck()]
        assert script.state is State.LISTENING
        script.do(SpeechEnded(script.now_ms), 100)
        script.do(Heard("wait which cache", is_final=True))
        assert script.wait(1000) == [BeginTurn("wait which cache", Interruption.QUESTION)]
        script.do(AnswerSounds())
        assert script.do(PlaybackEnded(), 3000) == [OfferResume()]
        assert script.state is State.RESUMING
        assert script.say("yes please") == [StopSpeaking(hold=False), ForgetSpeech("resume"), ResumeSpeaking()]
        assert script.state is State.SPEAKING
        assert script.do(PlaybackEnded()) == []
        assert script.state is State.LISTENING

    def test_an_offer_can_be_declined_ignored_or_met_by_another_question(self) -> None:
        def offered() -> Script:
            script = Script()
            script.ask_and_hear()
            script.say("wait which cache")
            script.do(AnswerSounds())
            script.do(PlaybackEnded())
            assert script.state is State.RESUMING
            return script

        assert offered().say("no thanks")[-2:] == [DropHeld(), ForgetSpeech("declined")]
        script = offered()
        assert script.wait(12_000) == [StopSpeaking(hold=False), DropHeld()]
        assert script.state is State.LISTENING
        assert offered().say("how large is the index")[-2:] == [DropHeld(), BeginTurn("how large is the index")]

    def test_stop_is_obeyed_in_silence(self) -> None:
        script = Script()
        script.ask_and_hear()
        script.do(SpeechStarted())
        assert StopSpeaking(hold=True, kind=Interruption.STOP) in script.do(Heard("stop"), 200)
        script.do(SpeechEnded(script.now_ms), 50)
        script.do(Heard("stop", is_final=True))
        assert script.wait(250) == [DropHeld(), ForgetSpeech("stop")]
        assert script.state is State.LISTENING

    def test_a_correction_drops_what_was_wrong(self) -> None:
        script = Script()
        script.ask_and_hear()
        effects = script.say("no i meant the staging server")
        assert effects[-2:] == [DropHeld(), BeginTurn("no i meant the staging server", Interruption.CORRECTION)]

    def test_long_speech_takes_the_floor_whatever_it_is(self) -> None:
        script = Script()
        script.ask_and_hear()
        script.do(SpeechStarted())
        assert script.wait(1299) == []
        effects = script.wait(1)
        assert effects[0] == StopSpeaking(hold=True, kind=Interruption.NOISE)
        assert script.state is State.LISTENING

    def test_one_telling_word_takes_it_once_it_is_steady(self) -> None:
        script = Script()
        script.ask_and_hear()
        script.do(SpeechStarted())
        assert script.do(Heard("who"), 40) == []
        assert script.do(Heard("for"), 40) == []
        assert script.do(Heard("wait"), 70) == []
        assert script.wait(99) == []
        assert script.wait(1)[0] == StopSpeaking(hold=True, kind=Interruption.QUESTION)
        assert script.state is State.LISTENING

    def test_what_a_recogniser_makes_of_half_a_back_channel_does_not(self) -> None:
        script = Script(judge=InterruptionModel.load(SHIPPED_JUDGE))
        script.ask_and_hear()
        script.do(SpeechStarted())
        # Of a real "yeah, okay".
        for text in ("he", "you", "yea", "you then", "you at the", "you at bill", "you at the look you", "yet okay"):
            assert script.do(Heard(text), 130) == []
        script.do(SpeechEnded(script.now_ms), 200)
        assert script.do(Heard("yea okay", is_final=True)) == [Unduck(), ForgetSpeech("backchannel")]
        assert script.state is State.SPEAKING

    def test_pressing_stop_works_in_every_state(self) -> None:
        for state in State:
            script = Script()
            script.manager.situation = Situation(state, deadline_ms=script.now_ms + 1000)
            script.do(Stopped())
            assert script.state is State.LISTENING


class TestEndpointing:
    @pytest.mark.parametrize(
        "text",
        [
            *("what does the runbook say about slow queries", "tell me about the index", "is it cached"),
            *("and how do i restart it now", "what is this for", "stop", "yes please", "who wrote the report"),
        ],
    )
    def test_it_sounds_finished(self, text: str) -> None:
        assert completeness(text) is Completeness.FINISHED

    @pytest.mark.parametrize(
        "text",
        ["what does the runbook say about the", "how do i restart the server and", "the", "um", "what is", "i want to"],
    )
    def test_more_is_to_come(self, text: str) -> None:
        assert completeness(text) is Completeness.OPEN

    @pytest.mark.parametrize("text", ["", "the staging server", "slow queries"])
    def test_it_may_be_either(self, text: str) -> None:
        assert completeness(text) is Completeness.UNSURE

    def test_the_waits_are_the_settings(self) -> None:
        waits = Waits(1, 2, 3)
        assert [waits.of(one) for one in Completeness] == [1, 2, 3]


class TestRules:
    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("right", Interruption.BACKCHANNEL),
            ("oh okay i see", Interruption.BACKCHANNEL),
            ("stop", Interruption.STOP),
            ("okay that's enough thank you", Interruption.STOP),
            ("wait which cache", Interruption.QUESTION),
            ("can you say that again", Interruption.QUESTION),
            ("no i meant the other server", Interruption.CORRECTION),
            ("that's not what i asked", Interruption.CORRECTION),
            ("", Interruption.NOISE),
            ("purple", Interruption.NOISE),
        ],
    )
    def test_it_means(self, text: str, kind: Interruption) -> None:
        assert Rules().judge(Moment(text)) is kind

    @pytest.mark.parametrize(
        ("text", "reply"), [("yes", True), ("go on please", True), ("no thanks", False), ("why", None)]
    )
    def test_an_offer_is_answered(self, text: str, reply: bool | None) -> None:
        assert reply_to_offer(text) is reply


TEXTS = ["", "stop", "right", "what is the limit", "the limit and", "no i meant this", "yes", "no thanks"]
EVENTS: list[Event] = [
    SpeechStarted(),
    SpeechEnded(0.0),
    *(Heard(text, final) for text, final in product(TEXTS, (False, True))),
    Committed(),
    Asked("why"),
    Asked(" "),
    Stopped(),
    AnswerSounds(),
    PlaybackEnded(),
    AnswerFailed(),
    Tick(),
]


class World:
    """What the effects do to the world outside: whether something sounds, is thought about, or is held."""

    def __init__(self) -> None:
        self.thinking = self.sounding = self.held = self.ducked = False

    def apply(self, event: Event, state_before: State, effects: list[Effect]) -> None:
        if isinstance(event, AnswerSounds) and state_before is State.THINKING:
            self.thinking, self.sounding = False, True
        if isinstance(event, PlaybackEnded):
            self.sounding = False
        if isinstance(event, AnswerFailed):
            self.thinking = self.sounding = False
        for effect in effects:
            match effect:
                case BeginTurn():
                    assert not self.thinking, "two answers are written at once"
                    assert not self.sounding, "it speaks while it begins to answer"
                    self.thinking = True
                case CancelTurn():
                    self.thinking = False
                case StopSpeaking(hold):
                    self.held = self.held or (hold and self.sounding)
                    self.sounding = self.ducked = False
                case OfferResume():
                    assert not self.sounding, "it offers while it speaks"
                    assert not self.thinking
                    self.sounding = True
                case ResumeSpeaking():
                    assert not self.sounding, "it resumes while it speaks"
                    assert not self.thinking
                    self.sounding, self.held = True, False
                case DropHeld():
                    self.held = False
                case Duck():
                    self.ducked = True
                case Unduck():
                    self.ducked = False


def happens(manager: TurnManager, event: Event) -> bool:
    """Whether the session could tell of it: an answer sounds, fails and ends only where there is one."""
    match event:
        case AnswerSounds():
            return manager.state is State.THINKING
        case PlaybackEnded():
            return manager.state in {State.SPEAKING, State.INTERRUPTED, State.RESUMING}
        case AnswerFailed():
            return manager.state in {State.THINKING, State.SPEAKING, State.INTERRUPTED}
    return True


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("event", EVENTS, ids=repr)
def test_every_event_in_every_state_leads_to_a_state_that_can_be_left(state: State, event: Event) -> None:
    for speaking, holds, offered in product((False, True), repeat=3):
        manager = TurnManager()
        manager.situation = Situation(state, speaking, "what is", holds=holds, offered=offered, deadline_ms=5.0)
        manager.handle(event, 10.0)
        settle(manager, 10.0)


def settle(manager: TurnManager, now_ms: float) -> None:
    """Everybody is silent, and time passes: whatever was going on, it listens in the end."""
    manager.handle(SpeechEnded(now_ms), now_ms)
    for _ in range(12):
        if manager.state is State.LISTENING and not manager.situation.is_speaking:
            break
        now_ms += 700_000
        manager.handle(Tick(), now_ms)
    assert manager.state is State.LISTENING
    manager.handle(SpeechStarted(), now_ms)
    manager.handle(Heard("what is the limit"), now_ms)
    manager.handle(SpeechEnded(now_ms), now_ms)
    manager.handle(Heard("what is the limit", is_final=True), now_ms)
    effects = manager.handle(Tick(), now_ms + 2000)
    assert [effect for effect in effects if isinstance(effect, BeginTurn)], "a dead end: a question begins no turn"


@settings(max_examples=400)
@given(
    st.lists(st.tuples(st.sampled_from(EVENTS), st.sampled_from([0, 30, 300, 800, 5000, 13_000])), max_size=40),
    st.booleans(),
)
def test_whatever_happens_it_never_speaks_twice_at_once_and_always_listens_again(
    script: list[tuple[Event, int]], hands_free: bool
) -> None:
    manager, world, now_ms = TurnManager(hands_free=hands_free), World(), 0.0
    for drawn, after_ms in script:
        now_ms += after_ms
        event = replace(drawn, silent_since_ms=now_ms) if isinstance(drawn, SpeechEnded) else drawn
        if not happens(manager, event):
            continue
        before = manager.state
        world.apply(event, before, manager.handle(event, now_ms))
        if manager.state is State.LISTENING:
            assert not world.sounding, "it speaks, and believes that it listens"
            assert not world.thinking
            assert not world.ducked
        if manager.state is State.THINKING:
            assert world.thinking
    manager.hands_free = True
    settle(manager, now_ms)
