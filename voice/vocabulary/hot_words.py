"""The words that tell a collection from general English, spelled as its documents spell them.

python -m voice.vocabulary.hot_words OUT        passages on its input, one a line

A word scores by how many passages hold it, and by how rare it is in PocketSphinx's general model:

    score(w) = log(1 + passages with w) · max(0, log10(COMMON / p_general(w)))
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from voice.vocabulary.words import read_passages

WORD = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-'.][A-Za-z0-9]+)*")
COMMON = 2e-5
"""Probability from which a word is one that everybody expects; "index" has 1e-5."""
UNKNOWN = 1e-9
"""That of a word which is in no dictionary."""
MOST = 60
"""Whisper takes 223 tokens, and a rare word is three of them."""
SHORTEST, LONGEST = 3, 30


def hot_words(texts: Iterable[str], probability: Callable[[str], float], most: int = MOST) -> list[str]:
    """At most ``most`` words, the most telling first; ``probability`` of lower-case words in general English."""
    passages: Counter[str] = Counter()
    spellings: dict[str, Counter[str]] = {}
    for text in texts:
        found = [word for word in WORD.findall(text) if SHORTEST <= len(word) <= LONGEST]
        for word in found:
            spellings.setdefault(word.lower(), Counter())[word] += 1
        passages.update({word.lower() for word in found})
    scored = {
        word: math.log(1 + count) * max(math.log10(COMMON / max(probability(word), UNKNOWN)), 0.0)
        for word, count in passages.items()
    }
    best = sorted((word for word, score in scored.items() if score > 0), key=lambda word: (-scored[word], word))[:most]
    return [max(spellings[word].items(), key=lambda entry: (entry[1], entry[0]))[0] for word in best]


def general_probability() -> Callable[[str], float]:
    """How likely a word is by the model that PocketSphinx brings."""
    import pocketsphinx

    logarithms = pocketsphinx.LogMath(1.0001)
    model = pocketsphinx.NGramModel(
        pocketsphinx.Config(loglevel="FATAL"), logarithms, pocketsphinx.get_model_path("en-us/en-us.lm.bin")
    )
    return lambda word: float(logarithms.exp(model.prob([word])))


def main(out_path: str) -> None:
    os.nice(10)
    texts = read_passages(sys.stdin.buffer)
    out = Path(out_path)
    draft = out.with_name(f"{out.name}.{os.getpid()}")
    draft.write_text("\n".join(hot_words(texts, general_probability())) + "\n", encoding="utf-8")
    draft.replace(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
