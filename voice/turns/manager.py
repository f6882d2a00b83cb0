"""Whose turn it is, as an explicit state machine: events in, effects out, no clock and no sound of its own.

          ┌──────────────────────────── taken back ───────────────────────────┐
          ▼                                                                   │
      LISTENING ── speech ended ──► ENDPOINTING ── silence is enough ──► THINKING ── first sound ──► SPEAKING
          ▲  ▲ ◄── speech again ────────┘                                     │                       │   ▲
          │  └──────────── stop, or nothing to say ───────────────────────────┘                speech │   │ back-channel
          │                                                                                           ▼   │ or noise
       RESUMING ◄── what interrupted is answered ─────────────────────────────────────────────── INTERRUPTED

Times are milliseconds of any steady clock. An event that means nothing in a state changes nothing. Each state that
waits for somebody has a deadline, so that a `Tick` gets it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum

from voice.turns.endpointing import Waits, completeness
from voice.turns.interruptions import TAKES_THE_FLOOR, Interruption, Judge, Moment, Rules, reply_to_offer


class State(StrEnum):
    LISTENING = "listening"
    ENDPOINTING = "endpointing"
    THINKING = "thinking"
    SPEAKING = "speaking"
    INTERRUPTED = "interrupted"
    RESUMING = "resuming"


# --- events ----


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """Somebody speaks, loudly enough not to be the agent's own voice."""


@dataclass(frozen=True, slots=True)
class SpeechEnded:
    """Nobody has spoken since ``silent_since_ms``."""

    silent_since_ms: float


@dataclass(frozen=True, slots=True)
class Heard:
    """All of what was said in this turn so far. ``is_final``: nothing more is computed of it."""

    text: str
    is_final: bool = False


@dataclass(frozen=True, slots=True)
class Committed:
    """The turn is over because somebody says so: they let go of the button, or it has become too long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was typed."""

    text: str


@dataclass(frozen=True, slots=True)
class Stopped:
    """Somebody pressed stop."""


@dataclass(frozen=True, slots=True)
class AnswerSounds:
    """The first sound of the answer is on its way."""


@dataclass(frozen=True, slots=True)
class PlaybackEnded:
    """All there was to hear was heard."""


@dataclass(frozen=True, slots=True)
class AnswerFailed:
    """There will be no answer, or no more of it."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    SpeechStarted
    | SpeechEnded
    | Heard
    | Committed
    | Asked
    | Stopped
    | AnswerSounds
    | PlaybackEnded
    | AnswerFailed
    | Tick
)

# --- effects ----


@dataclass(frozen=True, slots=True)
class BeginTurn:
    """Answer ``text``. ``interruption``: what it is, where it interrupted an answer."""

    text: str
    interruption: Interruption | None = None


@dataclass(frozen=True, slots=True)
class CancelTurn:
    """Stop looking for an answer: nobody has heard any of it."""


@dataclass(frozen=True, slots=True)
class Duck:
    """Play more softly."""


@dataclass(frozen=True, slots=True)
class Unduck:
    """As loud as before."""


@dataclass(frozen=True, slots=True)
class StopSpeaking:
    """Be silent at once. ``hold``: remember the rest, as it may be resumed."""

    hold: bool
    kind: Interruption | None = None


@dataclass(frozen=True, slots=True)
class OfferResume:
    """Ask whether to go on with what was held."""


@dataclass(frozen=True, slots=True)
class ResumeSpeaking:
    """Go on with what was held, from the sentence in which it was interrupted."""


@dataclass(frozen=True, slots=True)
class DropHeld:
    """Nobody will want the rest any more."""


@dataclass(frozen=True, slots=True)
class ForgetSpeech:
    """What was heard is dealt with: the next speech is a new turn. ``reason`` says how."""

    reason: str


Effect = BeginTurn | CancelTurn | Duck | Unduck | StopSpeaking | OfferResume | ResumeSpeaking | DropHeld | ForgetSpeech


@dataclass(frozen=True, slots=True)
class Times:
    """Longest waits, in milliseconds."""

    final_transcript_ms: float = 3_000
    """For more of the transcript once the silence was long enough; then what was heard so far counts."""
    first_words_ms: float = 30_000
    """The same while nothing was heard at all, or once the person said that it is all: the ears have a patience of
    their own, and tell when they give up.
    """
    steady_ms: float = 100
    """For how long half-heard words have to sound like an interruption: a recogniser's guess at the beginning of a
    word changes three times in that.
    """
    floor_ms: float = 1_300
    """Speech over the agent's voice that goes on for so long wants the floor, whatever it is. A drawn-out "yeah, okay"
    takes 1.04 s, and its end is noticed 0.2 s later.
    """
    verdict_ms: float = 8_000
    """For the transcript of what was said over the agent's voice; then it was noise."""
    thinking_ms: float = 60_000
    speaking_ms: float = 600_000
    offer_ms: float = 12_000
    turn_ms: float = 60_000


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that is known at a moment. ``deadline_ms`` is when a `Tick` matters next."""

    state: State = State.LISTENING
    is_speaking: bool = False
    """The person is."""
    text: str = ""
    is_final: bool = False
    silent_since_ms: float = 0.0
    heard_at_ms: float = 0.0
    """When the ears told of something last."""
    deadline_ms: float | None = None
    holds: bool = False
    """The rest of an interrupted answer."""
    over_since_ms: float = 0.0
    """When the speech over the agent's voice began."""
    floor_since_ms: float | None = None
    """Since when that sounds like an interruption."""
    was_interruption: Interruption | None = None
    """What the words being heard interrupted an answer as."""
    is_committed: bool = False
    """The turn is over by somebody's word: however it sounds, only its final transcript is waited for."""
    offered: bool = False
    """The agent has asked whether to go on, and what is being heard may be the reply."""


Step = tuple[Situation, list[Effect]]

SURE, CERTAIN = 0.7, 0.95
"""From these shares on, half-heard words are taken for an interruption: once they are steady, and at once."""


@dataclass(slots=True)
class TurnManager:
    """Holds the `Situation` and works out the next one."""

    waits: Waits = field(default_factory=Waits)
    times: Times = field(default_factory=Times)
    judge: Judge = field(default_factory=Rules)
    hands_free: bool = True
    """Whether silence ends a turn; otherwise only `Committed` does."""
    agent_was_saying: str = ""
    asked: str = ""
    situation: Situation = field(default_factory=Situation)

    @property
    def state(self) -> State:
        return self.situation.state

    def handle(self, event: Event, now_ms: float) -> list[Effect]:
        """What is to be done about ``event``, in this order."""
        handler = _HANDLERS[self.situation.state]
        self.situation, effects = handler(self, self.situation, event, now_ms)
        return effects

    # --- one function for each state ----

    def _listening(self, now: Situation, event: Event, at: float) -> Step:
        match event:
            case SpeechStarted():
                return replace(now, is_speaking=True, deadline_ms=at + self.times.turn_ms), []
            case SpeechEnded(silent_since) if now.is_speaking:
                return self._wait_for_more(replace(now, is_speaking=False, silent_since_ms=silent_since)), []
            case Heard(text, is_final) if now.is_speaking:
                # Not final for this turn, however sure the engine is of this stretch: more is being said.
                return replace(now, text=text, is_final=False), []
            case Heard(text, is_final) if text.strip():
                return self._wait_for_more(replace(now, text=text, is_final=is_final, silent_since_ms=at)), []
            case Committed():
                return self._commit(now, at)
            case Tick() if now.is_speaking and _is_due(now, at):
                return self._commit(now, at)
            case Asked(text) if text.strip():
                return self._begin(now, text, at, [ForgetSpeech("typed")])
            case Stopped():
                dropped: list[Effect] = [DropHeld()] if now.holds else []
                return Situation(), [*dropped, ForgetSpeech("stopped")]
        return now, []

    def _endpointing(self, now: Situation, event: Event, at: float) -> Step:
        match event:
            case SpeechStarted() if not now.is_committed:
                return replace(now, state=State.LISTENING, is_speaking=True, deadline_ms=at + self.times.turn_ms), []
            case Heard(text, is_final):
                later = replace(now, text=text, is_final=is_final, heard_at_ms=at)
                return self._end_if_due(later if now.is_committed else self._wait_for_more(later), at)
            case Tick():
                return self._end_if_due(now, at)
            case Committed():
                return self._commit(now, at)
            case Asked(text) if text.strip():
                return self._begin(now, text, at, [ForgetSpeech("typed")])
            case Stopped():
                dropped: list[Effect] = [DropHeld()] if now.holds else []
                return Situation(), [*dropped, ForgetSpeech("stopped")]
        return now, []

    def _thinking(self, now: Situation, event: Event, at: float) -> Step:
        match event:
            case SpeechStarted():
                return replace(now, is_speaking=True), []
            case SpeechEnded(silent_since):
                return replace(now, is_speaking=False, silent_since_ms=silent_since), []
            case Heard(text, is_final) if text.strip() and text.strip() != now.text.strip():
                # They had not finished after all, and nothing was heard of an answer: it is taken back.
                more = replace(now, state=State.LISTENING, text=text, is_final=is_final)
                if not now.is_speaking:
                    more = self._wait_for_more(more)
                else:
                    more = replace(more, is_final=False, deadline_ms=at + self.times.turn_ms)
                return more, [CancelTurn()]
            case AnswerSounds() if now.is_speaking:
                return self._spoken_over(now, at), [ForgetSpeech("answered"), Duck()]
            case AnswerSounds():
                spoken = Situation(State.SPEAKING, holds=now.holds, deadline_ms=at + self.times.speaking_ms)
                return spoken, [ForgetSpeech("answered")]
            case Asked(text) if text.strip():
                return self._begin(now, text, at, [CancelTurn(), ForgetSpeech("typed")])
            case Stopped():
                dropped: list[Effect] = [DropHeld()] if now.holds else []
                return Situation(), [CancelTurn(), *dropped, ForgetSpeech("stopped")]
            case AnswerFailed() | PlaybackEnded():
                return Situation(holds=now.holds), [ForgetSpeech("failed")]
            case Tick() if _is_due(now, at):
                return Situation(holds=now.holds), [CancelTurn(), ForgetSpeech("timed out")]
        return now, []

    def _speaking(self, now: Situation, event: Event, at: float) -> Step:
        match event:
            case SpeechStarted():
                return self._spoken_over(now, at), [Duck()]
            case PlaybackEnded():
                return self._spoken(now, at)
            case AnswerFailed():
                return Situation(holds=now.holds), []
            case Asked(text) if text.strip():
                return self._begin(now, text, at, [StopSpeaking(hold=False), ForgetSpeech("typed")])
            case Stopped():
                stop: list[Effect] = [StopSpeaking(hold=False, kind=Interruption.STOP)]
                return Situation(), [*stop, *([DropHeld()] if now.holds else []), ForgetSpeech("stopped")]
            case Tick() if _is_due(now, at):
                return Situation(holds=now.holds), [StopSpeaking(hold=False)]
        return now, []

    def _interrupted(self, now: Situation, event: Event, at: float) -> Step:
        match event:
            case SpeechStarted():
                return self._floor_deadline(replace(now, is_speaking=True, over_since_ms=at)), []
            case SpeechEnded(silent_since):
                ended = replace(now, is_speaking=False, silent_since_ms=silent_since)
                return replace(ended, deadline_ms=at + self.times.verdict_ms), []
            case Heard(text, is_final):
                goes_on = text.startswith(now.text) and now.text != ""
                since_ms = now.floor_since_ms if goes_on else None
                heard = replace(now, text=text, is_final=is_final and not now.is_speaking, floor_since_ms=since_ms)
                return self._weigh(heard, at)
            case Tick() if _is_due(now, at):
                # They want the floor, by their words or as they still speak. Silent, and no words came: it was noise.
                wants_floor = now.is_speaking or now.floor_since_ms is not None
                return self._yield(now, self._kind(now), at) if wants_floor else self._go_on(now, at)
            case Committed():
                return self._yield(now, self._kind(now), at)
            case PlaybackEnded():
                if now.holds or now.is_speaking or now.text.strip():
                    # Nothing is left to interrupt; whatever they say is a turn.
                    heard = replace(now, state=State.LISTENING, deadline_ms=at + self.times.turn_ms)
                    return (heard if now.is_speaking else self._wait_for_more(heard)), [Unduck()]
                return Situation(), [Unduck(), ForgetSpeech("nothing")]
            case AnswerFailed():
                heard = replace(now, state=State.LISTENING, deadline_ms=at + self.times.turn_ms)
                return (heard if now.is_speaking else self._wait_for_more(heard)), [Unduck()]
            case Asked(text) if text.strip():
                return self._begin(now, text, at, [StopSpeaking(hold=False), Unduck(), ForgetSpeech("typed")])
            case Stopped():
                stop: list[Effect] = [StopSpeaking(hold=False, kind=Interruption.STOP), Unduck()]
                return Situation(), [*stop, *([DropHeld()] if now.holds else []), ForgetSpeech("stopped")]
        return now, []

    def _resuming(self, now: Situation, event: Event, at: float) -> Step:
        """The offer is being spoken, or was: what is said next is the reply to it, or a question of its own."""
        match event:
            case SpeechStarted():
                listening = replace(now, state=State.LISTENING, is_speaking=True, offered=True, text="")
                return replace(listening, deadline_ms=at + self.times.turn_ms), [StopSpeaking(hold=False)]
            case Asked(text) if text.strip():
                stopped: list[Effect] = [StopSpeaking(hold=False), ForgetSpeech("typed")]
                return self._begin(replace(now, offered=True), text, at, stopped)
            case Stopped():
                return Situation(), [StopSpeaking(hold=False), DropHeld(), ForgetSpeech("stopped")]
            case Tick() if _is_due(now, at):
                return Situation(), [StopSpeaking(hold=False), DropHeld()]
        return now, []

    # --- what several of them do ----

    def _wait_for_more(self, now: Situation) -> Situation:
        """Endpointing, until the silence is as long as what was said asks for."""
        if not self.hands_free:
            return replace(now, state=State.LISTENING, deadline_ms=None)
        wait_ms = self.waits.of(completeness(now.text))
        return replace(now, state=State.ENDPOINTING, deadline_ms=now.silent_since_ms + wait_ms)

    def _end_if_due(self, now: Situation, at: float) -> Step:
        if now.state is not State.ENDPOINTING or not _is_due(now, at):
            return now, []
        due_ms = at if now.deadline_ms is None else now.deadline_ms
        overdue_ms = at - max(due_ms, now.heard_at_ms)
        # Who lets go of a button has said all of it: half of a question is no better the sooner it is asked.
        is_enough = bool(now.text.strip()) and not now.is_committed
        patience_ms = self.times.final_transcript_ms if is_enough else self.times.first_words_ms
        if not now.is_final and overdue_ms < patience_ms:
            return now, []
        return self._end_of_turn(now, at)

    def _commit(self, now: Situation, at: float) -> Step:
        """Somebody says that the turn is over: only the final transcript is still waited for."""
        over = replace(now, state=State.ENDPOINTING, is_speaking=False, is_committed=True)
        over = replace(over, silent_since_ms=at, deadline_ms=at)
        return self._end_of_turn(over, at) if now.is_final else (over, [])

    def _end_of_turn(self, now: Situation, at: float) -> Step:
        text = now.text.strip()
        if not text:
            return Situation(holds=now.holds), [ForgetSpeech("nothing")]
        if now.offered:
            return self._reply(now, text, at)
        if now.was_interruption is not None:
            match self._kind(now):
                case Interruption.STOP:
                    return Situation(), [DropHeld(), ForgetSpeech("stop")]
                case Interruption.BACKCHANNEL | Interruption.NOISE if now.holds:
                    spoken = Situation(State.SPEAKING, deadline_ms=at + self.times.speaking_ms)
                    return spoken, [ForgetSpeech("backchannel"), ResumeSpeaking()]
                case Interruption.CORRECTION:
                    corrected = replace(now, holds=False, was_interruption=Interruption.CORRECTION)
                    return self._begin(corrected, text, at, [DropHeld()] if now.holds else [])
        return self._begin(now, text, at, [])

    def _reply(self, now: Situation, text: str, at: float) -> Step:
        match reply_to_offer(text):
            case True if now.holds:
                spoken = Situation(State.SPEAKING, deadline_ms=at + self.times.speaking_ms)
                return spoken, [ForgetSpeech("resume"), ResumeSpeaking()]
            case False:
                return Situation(), [DropHeld(), ForgetSpeech("declined")]
        return self._begin(replace(now, holds=False, was_interruption=None), text, at, [DropHeld()])

    def _begin(self, now: Situation, text: str, at: float, before: list[Effect]) -> Step:
        thinking = Situation(State.THINKING, text=text, holds=now.holds, deadline_ms=at + self.times.thinking_ms)
        kind = now.was_interruption if now.was_interruption is not Interruption.STOP else None
        return thinking, [*before, BeginTurn(text, kind)]

    def _spoken(self, now: Situation, at: float) -> Step:
        """All of an answer was heard."""
        if now.holds:
            return Situation(State.RESUMING, holds=True, deadline_ms=at + self.times.offer_ms), [OfferResume()]
        return Situation(), []

    def _kind(self, now: Situation) -> Interruption:
        return self.judge.judge(self._moment(now))

    def _moment(self, now: Situation) -> Moment:
        return Moment(now.text, self.agent_was_saying, self.asked, "speaking")

    def _spoken_over(self, now: Situation, at: float) -> Situation:
        over = replace(now, state=State.INTERRUPTED, is_speaking=True, text="", is_final=False)
        return self._floor_deadline(replace(over, over_since_ms=at, floor_since_ms=None))

    def _floor_deadline(self, now: Situation) -> Situation:
        """With the deadline by which whoever speaks over the agent's voice has the floor."""
        due_ms = now.over_since_ms + self.times.floor_ms
        if now.floor_since_ms is not None:
            due_ms = min(due_ms, now.floor_since_ms + self.times.steady_ms)
        return replace(now, deadline_ms=due_ms)

    def _weigh(self, now: Situation, at: float) -> Step:
        """Something was said over the agent's voice: is it meant to stop it?"""
        kind = self._kind(now)
        if now.is_final:
            return self._yield(now, kind, at) if kind in TAKES_THE_FLOOR else self._go_on(now, at)
        share = self.judge.floor_share(self._moment(now))
        if share < SURE:
            unsure = replace(now, floor_since_ms=None)
            return (self._floor_deadline(unsure) if now.is_speaking else unsure), []
        since_ms = at if now.floor_since_ms is None else now.floor_since_ms
        if share >= CERTAIN or at - since_ms >= self.times.steady_ms:
            return self._yield(now, kind, at)
        return self._floor_deadline(replace(now, floor_since_ms=since_ms)), []

    def _go_on(self, now: Situation, at: float) -> Step:
        """It was a back-channel, or nothing."""
        spoken = Situation(State.SPEAKING, holds=now.holds, deadline_ms=at + self.times.speaking_ms)
        return spoken, [Unduck(), ForgetSpeech("backchannel" if now.text.strip() else "noise")]

    def _yield(self, now: Situation, kind: Interruption, at: float) -> Step:
        """Give the floor to whoever interrupts. What was held before is lost: only one answer can be resumed."""
        if kind is Interruption.STOP and not now.is_speaking:
            stop: list[Effect] = [StopSpeaking(hold=False, kind=kind), Unduck()]
            return Situation(), [*stop, *([DropHeld()] if now.holds else []), ForgetSpeech("stop")]
        effects: list[Effect] = [DropHeld()] if now.holds else []
        effects += [StopSpeaking(hold=True, kind=kind), Unduck()]
        listening = replace(now, state=State.LISTENING, holds=True, floor_since_ms=None, was_interruption=kind)
        if now.is_speaking:
            return replace(listening, is_final=False, deadline_ms=at + self.times.turn_ms), effects
        waiting = self._wait_for_more(listening)
        step, more = self._end_if_due(waiting, at)
        return step, [*effects, *more]


def _is_due(now: Situation, at: float) -> bool:
    return now.deadline_ms is not None and at >= now.deadline_ms


_HANDLERS: dict[State, Callable[[TurnManager, Situation, Event, float], Step]] = {
    State.LISTENING: TurnManager._listening,
    State.ENDPOINTING: TurnManager._endpointing,
    State.THINKING: TurnManager._thinking,
    State.SPEAKING: TurnManager._speaking,
    State.INTERRUPTED: TurnManager._interrupted,
    State.RESUMING: TurnManager._resuming,
}
