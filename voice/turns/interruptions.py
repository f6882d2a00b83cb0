"""What it means when somebody speaks while the agent does: rules, used where no trained model decides."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Interruption(StrEnum):
    """``BACKCHANNEL``: they listen. ``STOP``: they have heard enough. ``NOISE``: nobody meant anything."""

    BACKCHANNEL = "backchannel"
    QUESTION = "question"
    CORRECTION = "correction"
    STOP = "stop"
    NOISE = "noise"


TAKES_THE_FLOOR = frozenset({Interruption.QUESTION, Interruption.CORRECTION, Interruption.STOP})


@dataclass(frozen=True, slots=True)
class Moment:
    """An utterance, and the dialogue that it fell into.

    ``agent_was_saying``: the sentence that was being heard. ``asked``: the question that is being answered.
    ``agent_state``: ``speaking``, ``thinking`` or ``resuming`` (it has offered to go on).
    """

    text: str
    agent_was_saying: str = ""
    asked: str = ""
    agent_state: str = "speaking"
    duration_ms: int = 0


class Judge(Protocol):
    """Decides. Called on the event loop for each partial transcript, so it must be quick."""

    name: str

    def judge(self, moment: Moment) -> Interruption: ...

    def floor_share(self, moment: Moment) -> float:
        """How sure it is, in [0, 1], that they mean to take the floor: that it is one of `TAKES_THE_FLOOR`."""
        ...


WORD = re.compile(r"[a-z']+")
_BACKCHANNELS = """
    mm mmm hm hmm mhm mm-hm uh huh uh-huh aha ah oh yeah yes yep yup right okay ok sure i see got it good great nice
    fine exactly true indeed interesting makes sense wow cool alright all of course understood perfect
"""
BACKCHANNELS = frozenset(_BACKCHANNELS.split())
BACKCHANNEL_MOST_WORDS = 4
STOPS = re.compile(
    r"^(?:(?:okay|ok|please|no|just|hey|leonardo|alright|thanks|thank you|right|yes|well)\s+)*"
    r"(?:stop|stop it|stop there|stop talking|stop please|be quiet|quiet|shut up|enough|that's enough|that is enough|"
    r"silence|never mind|nevermind|forget it|cancel|hush|that's all|that will do|that'll do|i've heard enough|"
    r"no more|pause|stop reading|stop now|please stop|that's fine stop)"
    r"(?:\s+(?:now|please|thanks|thank you|leonardo|there|talking))*$"
)
CORRECTS = re.compile(
    r"^(?:(?:no|nope|wait|sorry|well|actually|hang on|hold on|not that)\s+)*"
    r"(?:no\b|not\b|i meant|i mean|i said|i asked|i was asking|that's not|that is not|that's wrong|that is wrong|wrong|"
    r"you misunderstood|actually\b|rather\b|instead\b|sorry i meant|the other|correction)"
)
ASKS = re.compile(
    r"\b(?:what|what's|which|who|whose|where|when|why|how|is it|is that|are they|does|do you|did|can|could|should|"
    r"would|"
    r"tell me|explain|say that again|repeat|again|come again|pardon|sorry|wait|hang on|hold on|go back|"
    r"slower|louder|for example|mean)\b"
)


class Rules:
    """The fallback: a few patterns, in the order of what it costs to be wrong."""

    name = "rules"

    def judge(self, moment: Moment) -> Interruption:
        words = WORD.findall(moment.text.lower())
        said = " ".join(words)
        if not words:
            return Interruption.NOISE
        if STOPS.match(said):
            return Interruption.STOP
        if len(words) <= BACKCHANNEL_MOST_WORDS and all(word in BACKCHANNELS for word in words):
            return Interruption.BACKCHANNEL
        if CORRECTS.match(said):
            return Interruption.CORRECTION
        if ASKS.search(said) or len(words) >= 3:
            return Interruption.QUESTION
        return Interruption.NOISE

    def floor_share(self, moment: Moment) -> float:
        """A guess: patterns know no shares. Three words that match none of them are a toss-up."""
        kind = self.judge(moment)
        if kind is Interruption.QUESTION and not ASKS.search(" ".join(WORD.findall(moment.text.lower()))):
            return 0.5
        return {Interruption.STOP: 1.0, Interruption.QUESTION: 0.9, Interruption.CORRECTION: 0.9}.get(kind, 0.0)


_HESITATION = r"^(?:(?:oh|um|uh|well|okay|ok)\s+)*"
_FEW_MORE = r"\b(?:\s+\w+){0,3}$"
YES = re.compile(
    _HESITATION + r"(?:yes|yeah|yep|yup|sure|please|go on|go ahead|carry on|continue|do|of course|okay|ok|right|"
    r"keep going|alright|absolutely|resume|mm hm|uh huh)" + _FEW_MORE
)
NO = re.compile(
    _HESITATION + r"(?:no|nope|nah|not now|don't|that's fine|that's enough|i'm good|never mind|no thanks|stop|enough|"
    r"leave it|skip it|that's all)" + _FEW_MORE
)


def reply_to_offer(text: str) -> bool | None:
    """Whether "shall I go on?" was answered by yes or no; ``None``: by something else."""
    said = " ".join(WORD.findall(text.lower()))
    if NO.match(said):
        return False
    if YES.match(said):
        return True
    return None
