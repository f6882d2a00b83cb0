"""The arithmetic of two language models that are mixed into one. Probabilities are plain, not logarithms.

    p(w | h) = weight · p_domain(w | h) + (1 − weight) · p_general(w | h)

for every pair that either model lists and every triple that the domain's does; the rest backs off with

    backoff(h) = (1 − Σ p(w | h)) / (1 − Σ p(w | h′))        over the listed w, h′ the shorter history

as in Katz, "Estimation of probabilities from sparse data", 1987. What is written is an ARPA file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

START, END = "<s>", "</s>"
FLOOR = 1e-9
NOTHING = 1e-6
"""Mass below which nothing is left for other words."""
Pairs = dict[str, dict[str, float]]


@dataclass(slots=True)
class General:
    """The stock model: ``words`` to probability and backoff, ``pairs`` to the probability of the second word."""

    words: dict[str, tuple[float, float]] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=dict)


@dataclass(slots=True)
class Domain:
    """What was counted in the passages: probabilities of words, pairs and triples with their backoffs."""

    words: dict[str, float] = field(default_factory=dict)
    backoff: dict[str, float] = field(default_factory=dict)
    pairs: Pairs = field(default_factory=dict)
    pair_backoff: Pairs = field(default_factory=dict)
    triples: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def given(self, word: str, history: str) -> float:
        listed = self.pairs.get(history, {})
        if word in listed:
            return listed[word]
        return self.backoff.get(history, 1.0) * self.words.get(word, 0.0)


@dataclass(slots=True)
class Mixed:
    """The mixture, as its file lists it."""

    words: dict[str, float]
    backoff: dict[str, float]
    pairs: Pairs
    pair_backoff: dict[tuple[str, str], float]
    triples: dict[tuple[str, str], dict[str, float]]


def count(sentences: Iterable[list[str]], discount: float = 0.5) -> Domain:
    """Absolute counts with a fixed share ``discount`` for what was not seen, as `pocketsphinx.lm` does it."""
    ones: dict[str, int] = {}
    twos: dict[str, dict[str, int]] = {}
    threes: dict[tuple[str, str], dict[str, int]] = {}
    for sentence in sentences:
        words = [START, *sentence, END]
        for position, word in enumerate(words):
            ones[word] = ones.get(word, 0) + 1
            if position >= 1:
                following = twos.setdefault(words[position - 1], {})
                following[word] = following.get(word, 0) + 1
            if position >= 2:
                after = threes.setdefault((words[position - 2], words[position - 1]), {})
                after[word] = after.get(word, 0) + 1
    total = sum(number for word, number in ones.items() if word != START)
    model = Domain()
    model.words = {word: number / total for word, number in ones.items() if word != START}
    for first, following in twos.items():
        seen = sum(following.values())
        listed = {word: number * (1 - discount) / seen for word, number in following.items()}
        model.backoff[first] = _settle(listed, (model.words[word] for word in listed))
        model.pairs[first] = listed
    for history, after in threes.items():
        seen = sum(after.values())
        listed = {word: number * (1 - discount) / seen for word, number in after.items()}
        backoff = _settle(listed, (model.given(word, history[1]) for word in listed))
        model.pair_backoff.setdefault(history[0], {})[history[1]] = backoff
        model.triples[history] = listed
    return model


def mix(general: General, domain: Domain, weight: float) -> Mixed:
    """``weight`` in [0, 1] is the domain's. Every word of both models is in the mixture."""
    mass = sum(probability for word, (probability, _) in general.words.items() if word != START)
    known = {word: probability / mass for word, (probability, _) in general.words.items() if word != START}
    words = {
        word: weight * domain.words.get(word, 0.0) + (1 - weight) * known.get(word, 0.0)
        for word in known.keys() | domain.words.keys()
    }

    def in_general(word: str, history: str) -> float:
        listed = general.pairs.get(history, {})
        if word in listed:
            return listed[word]
        backoff = general.words[history][1] if history in general.words else 1.0
        return backoff * known.get(word, 0.0)

    mixed = Mixed(words=words, backoff={}, pairs={}, pair_backoff={}, triples={})
    for history in {START, *words} - {END}:
        listed = general.pairs.get(history, {}).keys() | domain.pairs.get(history, {}).keys()
        if not listed:
            continue
        pair = {w: weight * domain.given(w, history) + (1 - weight) * in_general(w, history) for w in listed}
        mixed.backoff[history] = _settle(pair, (words[word] for word in pair))
        mixed.pairs[history] = pair
    for (first, second), after in domain.triples.items():
        triple = {w: weight * p + (1 - weight) * in_general(w, second) for w, p in after.items()}
        shorter = (mixed.pairs.get(second, {}).get(w, words[w]) for w in triple)
        mixed.pair_backoff[first, second] = _settle(triple, shorter)
        mixed.triples[first, second] = triple
    return mixed


def arpa_lines(model: Mixed) -> Iterator[str]:
    """The lines of an ARPA file, ends included, sorted."""
    pairs = sum(len(listed) for listed in model.pairs.values())
    triples = sum(len(listed) for listed in model.triples.values())
    yield f"\\data\\\nngram 1={len(model.words) + 1}\nngram 2={pairs}\nngram 3={triples}\n\n\\1-grams:\n"
    yield f"-99.0 {START} {_log(model.backoff.get(START, 1.0))}\n"
    for word in sorted(model.words):
        yield f"{_log(model.words[word])} {word} {_log(model.backoff.get(word, 1.0))}\n"
    yield "\n\\2-grams:\n"
    for first in sorted(model.pairs):
        listed = model.pairs[first]
        for second in sorted(listed):
            backoff = model.pair_backoff.get((first, second), 1.0)
            yield f"{_log(listed[second])} {first} {second} {_log(backoff)}\n"
    yield "\n\\3-grams:\n"
    for history in sorted(model.triples):
        after = model.triples[history]
        for word in sorted(after):
            yield f"{_log(after[word])} {history[0]} {history[1]} {word}\n"
    yield "\n\\end\\\n"


def read_general(lines: Iterable[str], size: int, wanted: Mapping[str, object] | set[str]) -> General:
    """The stock model from its ARPA file, cut to its ``size`` most probable words and whatever is ``wanted``.

    The file may end anywhere behind its pairs.
    """
    model = General()
    section = ""
    words: dict[str, tuple[float, float]] = {}
    for line in lines:
        if line.startswith("\\"):
            if section == "\\1-grams:":
                kept = set(sorted(words, key=lambda word: -words[word][0])[:size])
                model.words = {w: v for w, v in words.items() if w in kept or w in wanted or w in (START, END)}
            section = line.strip()
            if section == "\\3-grams:":
                break
        elif section == "\\1-grams:":
            parts = line.split()
            if len(parts) == 3:
                words[parts[1]] = 10 ** float(parts[0]), 10 ** float(parts[2])
        elif section == "\\2-grams:":
            parts = line.split()
            if len(parts) == 4 and parts[1] in model.words and parts[2] in model.words:
                model.pairs.setdefault(parts[1], {})[parts[2]] = 10 ** float(parts[0])
    return model


def _settle(listed: dict[str, float], shorter: Iterable[float]) -> float:
    """The backoff weight of a history, given the same words' probabilities after the ``shorter`` one.

    Where nothing is left to back off to, ``listed`` is scaled to be all there is.
    """
    total, left = sum(listed.values()), 1.0 - sum(shorter)
    if left < NOTHING or total > 1.0 - NOTHING:
        for word in listed:
            listed[word] /= total
        return 1.0
    return (1.0 - total) / left


def _log(value: float) -> str:
    return f"{math.log10(max(value, FLOOR)):.4f}"
