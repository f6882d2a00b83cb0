"""Which words of a passage answer the query: compared by the collection's own stems, as retrieval compares them."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from django.db import connection

from rag.lexicon import lexical_text, tokenize

_WORD = re.compile(r"[^\W_]+")

MAX_WORDS = 5_000
"""Most different words that are compared for one page of results; further ones stay unmarked."""

MAX_MATCHES = 500
"""Most matches of one passage among which the densest part is looked for: the search is quadratic."""

SNIPPET_CHARACTERS = 360
CODE_SNIPPET_CHARACTERS = 700


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of text that is marked or not. Templates escape it; it is never HTML."""

    text: str
    is_match: bool


def matching_words(texts: Sequence[str], query: str, *, configuration: str, split_identifiers: bool) -> frozenset[str]:
    """The words of ``texts``, as they are spelt there, that share a stem with ``query``. Costs one query."""
    words = sorted({word for text in texts for word in _WORD.findall(text)})[:MAX_WORDS]
    if not words:
        return frozenset()
    with connection.cursor() as cursor:
        wanted, *lexemes = tokenize(
            cursor, configuration, [lexical_text(text, split_identifiers) for text in (query, *words)]
        )
    stems = set(wanted) - {""}
    return frozenset(word for word, own in zip(words, lexemes, strict=True) if stems.intersection(own))


def segments(text: str, words: Set[str]) -> list[Segment]:
    """``text`` cut at the words that match; joined again, the segments are ``text``."""
    found: list[Segment] = []
    end = 0
    for match in _WORD.finditer(text):
        if match.group() not in words:
            continue
        if match.start() > end:
            found.append(Segment(text[end : match.start()], is_match=False))
        found.append(Segment(match.group(), is_match=True))
        end = match.end()
    if end < len(text):
        found.append(Segment(text[end:], is_match=False))
    return found


@dataclass(frozen=True, slots=True)
class Snippet:
    """A part of a passage, and whether something of it was left out before and after."""

    text: str
    cut_before: bool = False
    cut_after: bool = False

    @property
    def is_cut(self) -> bool:
        return self.cut_before or self.cut_after


def snippet(text: str, words: Set[str], *, is_code: bool) -> Snippet:
    """The part of ``text`` with the most different matching words.

    Prose is cut between words and its white space folded, code between lines and kept as it is. Ties go to the
    earliest part, so that a passage without any match begins at its beginning.
    """
    size = CODE_SNIPPET_CHARACTERS if is_code else SNIPPET_CHARACTERS
    if not is_code:
        text = " ".join(text.split())
    if len(text) <= size:
        return Snippet(text)
    boundary = "\n" if is_code else " "
    densest = _densest_match(text, words, reach=size * 4 // 5)
    # A little of what comes before, from a boundary on; then as much as fits, to a boundary.
    earliest = min(max(densest - size // 5, 0), len(text) - size)
    start = (text.find(boundary, earliest, densest) + 1 or earliest) if earliest else 0
    end = start + size
    if end < len(text):
        end = max(text.rfind(boundary, start, end), start + size // 2)
    return Snippet(text[start:end].strip("\n" if is_code else None), start > 0, end < len(text))


def _densest_match(text: str, words: Set[str], *, reach: int) -> int:
    """Where the match stands that is followed, within ``reach`` characters, by the most different ones; 0 without."""
    matches = [match for match in _WORD.finditer(text) if match.group() in words][:MAX_MATCHES]
    best, best_score = 0, (0, 0)
    for position, match in enumerate(matches):
        inside = [later.group().lower() for later in matches[position:] if later.end() <= match.start() + reach]
        score = (len(set(inside)), len(inside))
        if score > best_score:
            best, best_score = match.start(), score
    return best
