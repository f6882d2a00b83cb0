"""Where sentences end: by punctuation, aware of abbreviations, initials and numbers; linear in the text."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What ends a sentence: a terminator with its closing quotes and brackets, then white space; the CJK stops
# need none. The look-behind and the possessive quantifiers keep a megabyte of full stops linear.
_CANDIDATE = re.compile(r"(?<![.!?…])(?P<stop>[.!?…]++)[\"'”’»)\]]*+(?=\s)|[。！？｡]++[」』”’）]*+")
_NEXT_WORD = re.compile(r"\s+[\"'“‘«(\[]*(?P<first>\S)")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘«/]+\Z")
_LAST_WORD_WINDOW = 24

# Lower case, without the last full stop. Those of the second set end sentences too, so a capital after them
# parts.
_ABBREVIATIONS = """
    dr mr mrs ms prof rev hon st gen col capt lt sgt sen rep gov pres
    fig figs eq eqs sec secs ch chap vol vols no nos p pp para ref refs art ed eds trans
    vs v cf viz e.g i.e eg ie ca approx resp incl esp al
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue wed thu fri
"""
_FINAL_ABBREVIATIONS = """
    etc inc ltd co corp jr sr u.s u.k u.n e.u a.m p.m ph.d m.d b.c a.d
"""
_NEVER_ENDS = frozenset(_ABBREVIATIONS.split())
_ENDS_BEFORE_CAPITAL = frozenset(_FINAL_ABBREVIATIONS.split())


def sentence_ends(text: str, start: int, end: int) -> Iterator[int]:
    """Offsets just after each sentence of `text[start:end]`, ascending, the last one being `end`."""
    for candidate in _CANDIDATE.finditer(text, start, end):
        is_end = candidate["stop"] is None or _ends_sentence(text, start, candidate)
        if is_end and candidate.end() < end:
            yield candidate.end()
    if start < end:
        yield end


def _ends_sentence(text: str, start: int, candidate: re.Match[str]) -> bool:
    if candidate["stop"] != ".":
        return True
    following = _NEXT_WORD.match(text, candidate.end(), candidate.end() + 64)
    first = following["first"] if following else ""
    before = text[max(start, candidate.start() - _LAST_WORD_WINDOW) : candidate.start()]
    match = _LAST_WORD.search(before)
    word = match[0].lower() if match else ""
    if word in _NEVER_ENDS:
        return False
    if word in _ENDS_BEFORE_CAPITAL:
        return first.isupper()
    if len(word) == 1 and word.isalpha() and match is not None and match[0].isupper():
        return False  # an initial: "J. Smith"
    if word.isdigit() and len(word) <= 2 and match is not None:
        line_start = before[: match.start()].rpartition("\n")[2]
        if not line_start.strip():
            return False  # the number of a list item: "1. Open the lid"
    # In text without capitals (some old collections) a space before the full stop still marks an end.
    return not first.islower() or not word or text[candidate.start() - 1].isspace()
