"""Sentences of passages and of answers, with the stems by which they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.db import connection

from rag.answers.contracts import Passage
from rag.ingest.sentences import sentence_ends
from rag.lexicon import lexical_text, tokenize

Stems = frozenset[str]

_BREAK = re.compile(r"\n\s*\n|\n(?=\s*(?:[-*•#>|]|\d+[.)])\s)")
"""Where a sentence ends without a full stop: at a blank line, and before an item of a list, a heading, a table row."""
_ROW = re.compile(r"^[^\n]*\S \| \S[^\n]*$", re.MULTILINE)
"""A row of a table, as parsers write its cells: it says something by itself."""

_DOCSTRING = '"""'

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Quotable:
    """A sentence of a passage: ``document.text[start:end]``."""

    passage: Passage
    text: str
    start: int
    end: int


def spans(text: str) -> Iterator[tuple[int, int]]:
    """``(start, end)`` of each sentence of ``text``, without white space and docstring quotes around it."""
    start = 0
    breaks = {match.start() for match in _BREAK.finditer(text)}
    breaks |= {place for row in _ROW.finditer(text) for place in row.span()}
    for block in sorted({*breaks, len(text)}):
        for end in sentence_ends(text, start, block):
            piece = text[start:end]
            bare = piece.strip().removeprefix(_DOCSTRING).removesuffix(_DOCSTRING).strip()
            if bare:
                left = start + piece.index(bare)
                yield left, left + len(bare)
            start = end
        start = block


def sentences_of(passage: Passage) -> list[Quotable]:
    """The sentences of a passage, in their order."""
    return [
        Quotable(passage, passage.text[start:end], passage.start + start, passage.start + end)
        for start, end in spans(passage.text)
    ]


def count_words(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))


@dataclass(frozen=True, slots=True)
class Stemmer:
    """Stems as a collection's index has them; costs one query a call."""

    configuration: str
    split_identifiers: bool

    def __call__(self, texts: Sequence[str]) -> list[Stems]:
        """The stems of each text, without stop words."""
        if not texts:
            return []
        with connection.cursor() as cursor:
            rows = tokenize(cursor, self.configuration, [lexical_text(text, self.split_identifiers) for text in texts])
        return [frozenset(row) - {""} for row in rows]
