"""The trained judge of interruptions: a logistic regression over words, their order, and the dialogue around them.

``p(class | x) = softmax(W x + b)``. The features are named, so that what a model learned can be read in its file. It
knows numpy alone: training is `voice.recipes.interruption`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from voice.turns.interruptions import BACKCHANNELS, TAKES_THE_FLOOR, WORD, Interruption, Moment, Rules

FORMAT = 1


def features(moment: Moment) -> Iterator[tuple[str, float]]:
    """Names and values; a name comes at most once. An utterance without words has only ``bias`` features."""
    words = WORD.findall(moment.text.lower())
    padded = ["^", *words, "$"]
    names = {f"w:{word}" for word in words}
    names |= {f"b:{first} {second}" for first, second in pairwise(padded)}
    names |= {f"s:{' '.join(words[:2])}", f"state:{moment.agent_state}", f"rules:{Rules().judge(moment)}"}
    names.add(f"n:{min(len(words), 8)}")
    yield from ((name, 1.0) for name in sorted(names))
    if words:
        said = set(WORD.findall(moment.agent_was_saying.lower()))
        asked = set(WORD.findall(moment.asked.lower()))
        yield "overlap:agent", len(said & set(words)) / len(words)
        yield "overlap:asked", len(asked & set(words)) / len(words)
        yield "share:backchannel", sum(word in BACKCHANNELS for word in words) / len(words)


class InterruptionModel:
    """A trained judge. Made of ``{"format", "classes", "features": {name: [weight of each class]}, "intercept"}``."""

    name = "logistic"

    def __init__(self, about: dict[str, Any]) -> None:
        if about.get("format") != FORMAT:
            raise ValueError(f"This is no interruption model of format {FORMAT}.")
        self.classes = [Interruption(name) for name in about["classes"]]
        self._intercept = np.asarray(about["intercept"], dtype=np.float64)
        self._weights = {name: np.asarray(row, dtype=np.float64) for name, row in about["features"].items()}
        shapes = {row.shape for row in self._weights.values()} | {self._intercept.shape}
        if shapes != {(len(self.classes),)}:
            raise ValueError("Every feature needs one weight for each class.")

    @classmethod
    def load(cls, path: Path) -> InterruptionModel:
        """Raises `ValueError`, `KeyError` or `OSError`."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    def probabilities(self, moment: Moment) -> Sequence[float]:
        """One for each of `classes`; they sum to 1."""
        scores = self._intercept.copy()
        for name, value in features(moment):
            if name in self._weights:
                scores += value * self._weights[name]
        exponents = np.exp(scores - scores.max())
        shares: list[float] = (exponents / exponents.sum()).tolist()
        return shares

    def judge(self, moment: Moment) -> Interruption:
        if not moment.text.strip():
            return Interruption.NOISE
        return self.classes[int(np.argmax(self.probabilities(moment)))]

    def floor_share(self, moment: Moment) -> float:
        if not moment.text.strip():
            return 0.0
        shares = zip(self.classes, self.probabilities(moment), strict=True)
        return sum(share for kind, share in shares if kind in TAKES_THE_FLOOR)
