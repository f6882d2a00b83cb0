"""Text as it is spoken: lower-case words and nothing else, so that passages teach a language model."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import BinaryIO

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
COMPLETE = "\x04"
"""The last line that a maker of vocabularies is given: whoever gives them may be killed half-way."""
SHORTEST_PART = 3
"""Letters of the parts that a compound may be made of."""
VOICELESS = ("P", "T", "K", "F", "TH")
HISSING = ("S", "Z", "SH", "ZH", "CH", "JH")
SENTENCE_END = re.compile(r"[.!?;:|\n]+(?:\s|$)")


def read_passages(lines: BinaryIO) -> list[str]:
    """Passages, one a line, up to `COMPLETE`. Raises `EOFError` where that is missing."""
    passages = [line.decode(errors="replace").rstrip("\n") for line in lines]
    if not passages or passages.pop() != COMPLETE:
        raise EOFError("The passages ended half-way.")
    return passages


def spoken_sentences(texts: Iterable[str], known: Container[str]) -> Iterator[list[str]]:
    """The sentences of ``texts`` as lists of ``known`` words. An unknown word cuts its sentence in two.

    A run of fewer than two words teaches nothing about order, but its word: it is given as well.
    """
    for text in texts:
        for sentence in SENTENCE_END.split(text.lower().replace("’", "'")):
            run: list[str] = []
            for word in WORD.findall(sentence):
                if word in known:
                    run.append(word)
                elif run:
                    yield run
                    run = []
            if run:
                yield run


def pronounce(word: str, dictionary: Mapping[str, str]) -> str | None:
    """How a word that is in no dictionary sounds, in ARPAbet: as a plural, or as its two parts one after the other.

    ``runbook`` is ``run`` and ``book``. ``None`` when it is neither.
    """
    if word.endswith("s") and (singular := dictionary.get(word[:-1]) or _compound(word[:-1], dictionary)):
        last = singular.rsplit(" ", 1)[-1]
        return f"{singular} {'IH Z' if last in HISSING else 'S' if last in VOICELESS else 'Z'}"
    return _compound(word, dictionary)


def _compound(word: str, dictionary: Mapping[str, str]) -> str | None:
    """The parts as nearly of one length as can be: ``under`` and ``stand`` rather than ``underst`` and ``and``."""
    splits = range(SHORTEST_PART, len(word) - SHORTEST_PART + 1)
    for at in sorted(splits, key=lambda at: abs(2 * at - len(word))):
        if word[:at] in dictionary and word[at:] in dictionary:
            return f"{dictionary[word[:at]]} {dictionary[word[at:]]}"
    return None
