"""Citations in a stream of text: ``[2]`` or ``[1, 3]`` are found however the text is cut, invented ones are taken out.

The passage's sentence that a citation refers to is the one that shares most words with what is said before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rag.answers.contracts import Citation, Passage
from rag.answers.sentences import Quotable, sentences_of

LONGEST_MARKER = 40
"""Characters that are held back while they may still become a marker."""

_MARKER = re.compile(r"(?P<before>\s*)\[\s*\^?(?P<numbers>\d{1,3}(?:\s*[,;]\s*\^?\d{1,3})*)\s*\]")
_PARTIAL = re.compile(r"\s*\[[\s^\d,;]*\Z|\s+\Z")
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Cited:
    """A marker for passage ``number``."""

    number: int


@dataclass(slots=True)
class CitationParser:
    """Takes a model's text apart. ``known``: the numbers of the passages; others are dropped and counted."""

    known: frozenset[int]
    removed: int = 0
    _held: str = field(default="")

    def feed(self, text: str) -> Iterator[Text | Cited]:
        held = self._held + text
        self._held = ""
        position = 0
        for match in _MARKER.finditer(held):
            yield from _text(held[position : match.start()])
            cited = list(self._cited(match["numbers"]))
            if cited:  # with a marker that is dropped goes the space before it
                yield from _text(match["before"])
            yield from cited
            position = match.end()
        rest = held[position:]
        partial = _PARTIAL.search(rest)
        if partial is not None and len(rest) - partial.start() <= LONGEST_MARKER:
            self._held = rest[partial.start() :]
            rest = rest[: partial.start()]
        yield from _text(rest)

    def finish(self) -> Iterator[Text | Cited]:
        """What was held back; the beginning of a marker that never ended is text."""
        held, self._held = self._held, ""
        yield from _text(held)

    def _cited(self, numbers: str) -> Iterator[Cited]:
        for number in dict.fromkeys(int(digits) for digits in re.findall(r"\d+", numbers)):
            if number in self.known:
                yield Cited(number)
            else:
                self.removed += 1


def _text(text: str) -> Iterator[Text]:
    if text:
        yield Text(text)


def locate(said: str, passage: Passage, number: int, at: int) -> Citation:
    """The citation of ``passage`` after ``said``, whose marker begins at ``at``."""
    quoted = closest(said, sentences_of(passage))
    start, end, quote = (
        (quoted.start, quoted.end, quoted.text) if quoted else (passage.start, passage.end, passage.text)
    )
    return Citation(
        number=number,
        at=at,
        chunk_id=passage.chunk_id,
        pk=passage.pk,
        document_id=passage.document_id,
        title=passage.title,
        page=passage.page,
        start=start,
        end=end,
        quote=quote,
    )


def closest(said: str, sentences: Sequence[Quotable]) -> Quotable | None:
    """The sentence that contains ``said``, else the one with most of its words (F1); ``None`` without sentences."""
    folded = " ".join(said.split()).strip("… ")
    for sentence in sentences:
        if folded and folded in " ".join(sentence.text.split()):
            return sentence
    words = _words(said)

    def overlap(sentence: Quotable) -> float:
        own = _words(sentence.text)
        return 2 * len(words & own) / max(len(words) + len(own), 1)

    return max(sentences, key=overlap, default=None)


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)}
