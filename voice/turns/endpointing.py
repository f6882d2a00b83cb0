"""How long a silence has to be before a turn is over, by what was said in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

WORD = re.compile(r"[a-z']+")


class Completeness(StrEnum):
    """Whether a turn sounds finished."""

    FINISHED = "finished"
    UNSURE = "unsure"
    OPEN = "open"


@dataclass(frozen=True, slots=True)
class Waits:
    """Milliseconds of silence for each `Completeness`."""

    finished_ms: int = 250
    unsure_ms: int = 450
    open_ms: int = 1000

    def of(self, completeness: Completeness) -> int:
        match completeness:
            case Completeness.FINISHED:
                return self.finished_ms
            case Completeness.UNSURE:
                return self.unsure_ms
        return self.open_ms


_TRAILING = """
    and or but because so if when while that which who whose where although though unless until since than as like
    the a an this these those my your our their his her its some any every each no another
    of to in on at by for with from about into over under between through without within against during
    is are was were be been am do does did has have had can could will would shall should may might must
    what how why um uh er erm hmm well also then not just very more most i we you he she they
"""
TRAILING = frozenset(_TRAILING.split())
"""Words after which something is still to come, mostly."""

STRANDED = re.compile(
    r"^(?:what|who|which|where|how)\b.*\b(?:for|about|of|to|with|from|in|on|like|do|is|are|it|this|that|those|these)$"
)
"""Questions that end in a word of `TRAILING` all the same: "what is this for", "who is that"."""

OPENING = re.compile(
    r"^(?:(?:and|but|so|ok|okay|well|please|hey|wait|right|leonardo|um|uh)\s+)*"
    r"(?:what|what's|how|how's|why|when|where|where's|who|who's|whose|which|"
    r"is|are|was|were|do|does|did|can|could|will|would|should|has|have|had|may|"
    r"tell|show|explain|list|find|give|describe|summarise|summarize|compare|search|look|read|define|help)\b"
)
"""How a question or a request begins."""

WHOLE = frozenset(
    {
        *("yes", "no", "stop", "okay", "ok", "right", "thanks", "thank you", "go on", "continue", "please", "sure"),
        *("yes please", "no thanks", "no thank you", "never mind", "be quiet", "carry on", "that's all", "wait"),
    }
)
"""What is finished although it is short."""

SHORTEST_QUESTION = 3
"""Words with which a question can be complete: "what is BM25"."""


def completeness(text: str) -> Completeness:
    """Whether ``text``, as it was heard so far, sounds finished. Nothing at all is unsure."""
    words = WORD.findall(text.lower())
    said = " ".join(words)
    if said in WHOLE:
        return Completeness.FINISHED
    if not words:
        return Completeness.UNSURE
    is_question = OPENING.match(said) is not None
    if words[-1] in TRAILING and not (len(words) > SHORTEST_QUESTION and STRANDED.match(said)):
        return Completeness.OPEN
    if is_question and len(words) >= SHORTEST_QUESTION:
        return Completeness.FINISHED
    return Completeness.UNSURE
