"""Repairing a misheard question: words that sound like one of the collection's own, and fit its neighbours better.

A run of one to three heard words is replaced by a word of the collection when their sounds (ARPAbet, by PocketSphinx's
dictionary) differ by little, the collection never says what was heard, and, unless they sound nearly the same, it says
the new word beside the word before or behind. Terms are found by the pairs of sounds that they share.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from voice.vocabulary.words import WORD, pronounce

LONGEST_RUN = 3
SAME = 0.2
"""Share of sounds that may differ without a neighbour that speaks for it."""
NEAR = 0.4
LEAST_SOUNDS = 4
SHARED = 0.4
"""Share of a term's pairs of sounds that a candidate must have."""

Sounds = tuple[str, ...]


def distance(one: Sounds, other: Sounds) -> float:
    """The Levenshtein distance of sounds as a share of the longer; vowels among each other cost half."""
    row = [float(number) for number in range(len(other) + 1)]
    for first in one:
        diagonal, row[0] = row[0], row[0] + 1
        for column, second in enumerate(other, 1):
            swap = 0.0 if first == second else 0.5 if first[0] in "AEIOU" and second[0] in "AEIOU" else 1.0
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + swap)
    return row[-1] / max(len(one), len(other), 1)


class Repairer:
    """For one collection."""

    def __init__(self, texts: Iterable[str], dictionary: Mapping[str, str]) -> None:
        self._dictionary = dictionary
        words: Counter[str] = Counter()
        self._pairs: set[tuple[str, str]] = set()
        for text in texts:
            said = WORD.findall(text.lower().replace("’", "'"))
            words.update(said)
            self._pairs.update(pairwise(said))
        self._said = set(words)
        self._terms: dict[str, Sounds] = {}
        self._index: dict[tuple[str, str], set[str]] = defaultdict(set)
        for word in words:
            sounds = self._sounds([word]) or tuple((pronounce(word, dictionary) or "").split())
            if len(sounds) >= LEAST_SOUNDS:
                self._terms[word] = sounds
                for pair in pairwise(sounds):
                    self._index[pair].add(word)

    def repair(self, text: str) -> str:
        words = text.lower().split()
        position = 0
        while position < len(words):
            best: tuple[float, int, str] | None = None
            for length in range(1, LONGEST_RUN + 1):
                run = words[position : position + length]
                if len(run) == length and not self._is_said(run):
                    found = self._term_for(run, words[position - 1 : position], words[position + length :][:1])
                    if found is not None and (best is None or found[0] < best[0]):
                        best = found[0], length, found[1]
            if best is not None:
                words[position : position + best[1]] = [best[2]]
            position += 1
        return " ".join(words)

    def _is_said(self, run: Sequence[str]) -> bool:
        return run[0] in self._said if len(run) == 1 else all(pair in self._pairs for pair in pairwise(run))

    def _term_for(self, run: Sequence[str], before: list[str], after: list[str]) -> tuple[float, str] | None:
        sounds = self._sounds(run)
        if len(sounds) < LEAST_SOUNDS:
            return None
        shared = Counter(word for pair in set(pairwise(sounds)) for word in self._index.get(pair, ()))
        best: tuple[float, str] | None = None
        for word, count in shared.most_common(50):
            other = self._terms[word]
            if count < SHARED * (len(other) - 1) or word in run:
                continue
            differs = distance(sounds, other)
            fits = any((one, word) in self._pairs for one in before) or any((word, one) in self._pairs for one in after)
            if differs <= (NEAR if fits else SAME) and (best is None or differs < best[0]):
                best = differs, word
        return best

    def _sounds(self, run: Sequence[str]) -> Sounds:
        spelled = [self._dictionary.get(word) for word in run]
        return tuple(sound for one in spelled if one for sound in one.split()) if all(spelled) else ()
