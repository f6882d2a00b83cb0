"""A follow-up as a question of its own, by rules: what a search needs to find what "and in winter?" is about."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rag.answers.contracts import Turn

MAX_CARRIED_WORDS = 24
"""Words of earlier questions that a follow-up is given."""
SHORT_WORDS = 4
"""A question of so many words that carry meaning, or fewer, is looked at for what it leaves out."""

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_REFERS = re.compile(
    r"\b(?:it|its|they|them|their|theirs|this|that|these|those|he|him|his|she|her|hers|one|ones|there|then|"
    r"the (?:first|second|third|last|former|latter|other|same)|such|both|either|neither|above|previous)\b",
    re.IGNORECASE,
)
_CONTINUES = re.compile(
    r"^\s*(?:and|but|or|so|also|what about|how about|what else|why|why not|how so|really|for example|more|"
    r"tell me more|go on|continue|in that case|otherwise|instead)\b",
    re.IGNORECASE,
)
_WITHOUT_MEANING = """
    a an the of in on at to for from by with as is are was were be been being do does did can could will would shall
    should may might must have has had i you we it its they them their this that these those he him his she her what
    which who whom whose when where why how and or but so if not no yes there here about tell me please more also then
    than too very just any some
"""
_EMPTY = frozenset(_WITHOUT_MEANING.split())


def standalone(query: str, history: Sequence[Turn]) -> str:
    """``query`` with what it leaves out: the words of the earlier questions that it refers to. Itself, when nothing.

    >>> standalone("And in winter?", [Turn("user", "How are varroa mites treated?")])
    'And in winter? varroa mites treated'
    """
    asked = [turn.content for turn in history if turn.role == "user"]
    if not asked or not is_follow_up(query):
        return query
    own = {word.casefold() for word in _WORD.findall(query)}
    carried: list[str] = []
    for question in reversed(asked):
        words = [word for word in _carrying(question) if word.casefold() not in own]
        carried = [*words, *(word for word in carried if word not in words)]
        # A question that stands by itself says what the ones after it are about.
        if not is_follow_up(question):
            break
    return f"{query} {' '.join(carried[:MAX_CARRIED_WORDS])}".strip() if carried else query


def is_follow_up(query: str) -> bool:
    """Whether a question seems to lean on what was said before it."""
    carrying = _carrying(query)
    return bool(
        _CONTINUES.search(query)
        or not carrying
        or (_REFERS.search(query) and len(carrying) <= 2 * SHORT_WORDS)
        or (len(carrying) <= 1 and len(_WORD.findall(query)) <= SHORT_WORDS)
    )


def _carrying(text: str) -> list[str]:
    return [word for word in dict.fromkeys(_WORD.findall(text)) if word.casefold() not in _EMPTY]
