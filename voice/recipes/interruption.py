"""Trains the judge of interruptions on the labelled set beside it, and says how good it is on the held-out half.

The strength of the regularisation is chosen by cross-validation on the training half; the held-out half is looked at
once, at the end. The optimum is found by L-BFGS, so that the same data gives the same model.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp

from voice.recipes import SHIPPED_JUDGE
from voice.turns.interruption_model import FORMAT, InterruptionModel, features
from voice.turns.interruptions import Interruption, Moment, Rules

FOLDER = Path(__file__).with_name("interruptions")
STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Example:
    moment: Moment
    kind: Interruption


def read(name: str) -> list[Example]:
    """``train`` or ``held_out``."""
    with (FOLDER / "contexts.tsv").open(encoding="utf-8", newline="") as file:
        contexts = {row[0]: row[1:] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)}
    with (FOLDER / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    examples = []
    for kind, context, text in rows:
        state, asked, saying = contexts[context]
        examples.append(Example(Moment(text, saying, asked, state), Interruption(kind)))
    return examples


def train(examples: Sequence[Example], strength: float) -> InterruptionModel:
    """The model that minimises the mean cross-entropy plus ``strength / (2 n)`` times the squared weights."""
    return InterruptionModel(_fit(examples, strength))


def cross_validated(examples: Sequence[Example]) -> dict[float, float]:
    """Macro F1 by strength, each utterance judged by a model that was not trained on it."""
    scores = {}
    for strength in STRENGTHS:
        judged: dict[int, Interruption] = {}
        for fold in range(FOLDS):
            model = train([one for place, one in enumerate(examples) if place % FOLDS != fold], strength)
            for place, one in enumerate(examples):
                if place % FOLDS == fold:
                    judged[place] = model.judge(one.moment)
        scores[strength] = macro_f1(f1_scores(examples, [judged[place] for place in range(len(examples))]))
    return scores


def make() -> dict[str, Any]:
    """The model file: what was learned, how, and what it reaches on the held-out half beside rules and majority."""
    examples, held_out = read("train"), read("held_out")
    validated = cross_validated(examples)
    strength = max(validated, key=lambda one: (validated[one], one))
    fitted = _fit(examples, strength)
    model = InterruptionModel(fitted)
    return fitted | {
        "provenance": {
            "recipe": "voice.recipes.interruption",
            "strength": strength,
            "cross_validated_macro_f1": {str(one): round(score, 4) for one, score in validated.items()},
            "datasets": [{"collection": "voice/recipes/interruptions/train.tsv", "sha256": _sha256("train")}],
            "held_out_sha256": _sha256("held_out"),
        },
        "metrics": {
            name: evaluate(judge, held_out)
            for name, judge in (
                ("model", model.judge),
                ("rules", Rules().judge),
                ("majority", lambda moment: Interruption.BACKCHANNEL),
            )
        },
    }


def evaluate(judge: Callable[[Moment], Interruption], examples: Sequence[Example]) -> dict[str, float]:
    """F1 of each class, their mean, and the share that is right."""
    judged = [judge(one.moment) for one in examples]
    scores = f1_scores(examples, judged)
    right = sum(one.kind is kind for one, kind in zip(examples, judged, strict=True)) / len(examples)
    figures = {kind.value: score for kind, score in scores.items()}
    return {name: round(value, 4) for name, value in (figures | {"macro_f1": macro_f1(scores), "right": right}).items()}


def f1_scores(examples: Sequence[Example], judged: Sequence[Interruption]) -> dict[Interruption, float]:
    """``2 TP / (2 TP + FP + FN)`` of each class; 0 for one that is neither there nor judged."""
    scores = {}
    for kind in Interruption:
        pairs = [(one.kind is kind, said is kind) for one, said in zip(examples, judged, strict=True)]
        hits = sum(is_it and said for is_it, said in pairs)
        misses = sum(is_it != said for is_it, said in pairs)
        scores[kind] = 2 * hits / (2 * hits + misses) if hits else 0.0
    return scores


def macro_f1(scores: dict[Interruption, float]) -> float:
    return sum(scores.values()) / len(scores)


def _fit(examples: Sequence[Example], strength: float) -> dict[str, Any]:
    classes = list(Interruption)
    # At training half of a dialogue's state is hidden at times, as it is unknown to some callers.
    seen = [*examples, *(Example(replace(one.moment, agent_was_saying="", asked=""), one.kind) for one in examples)]
    described = [dict(features(one.moment)) for one in seen]
    names = sorted({name for one in described for name in one})
    columns = {name: column for column, name in enumerate(names)}
    matrix = np.zeros((len(seen), len(names)))
    for row, one in enumerate(described):
        for name, value in one.items():
            matrix[row, columns[name]] = value
    targets = np.array([classes.index(one.kind) for one in seen])
    count, width, kinds = len(seen), len(names), len(classes)

    def loss(flat: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        weights, intercept = flat[: width * kinds].reshape(width, kinds), flat[width * kinds :]
        scores = matrix @ weights + intercept
        logarithms = scores - logsumexp(scores, axis=1, keepdims=True)
        residual = np.exp(logarithms)
        residual[np.arange(count), targets] -= 1.0
        value = -logarithms[np.arange(count), targets].mean() + strength / (2 * count) * (weights**2).sum()
        gradient = matrix.T @ residual / count + strength / count * weights
        return float(value), np.concatenate([gradient.ravel(), residual.mean(axis=0)])

    found = minimize(loss, np.zeros(width * kinds + kinds), jac=True, method="L-BFGS-B", options={"maxiter": 500})
    weights = found.x[: width * kinds].reshape(width, kinds)
    return {
        "format": FORMAT,
        "classes": [kind.value for kind in classes],
        "intercept": [round(value, 5) for value in found.x[width * kinds :].tolist()],
        "features": {name: [round(value, 4) for value in weights[columns[name]].tolist()] for name in names},
    }


def _sha256(name: str) -> str:
    return hashlib.sha256((FOLDER / f"{name}.tsv").read_bytes()).hexdigest()


def write(about: dict[str, Any], path: Path = SHIPPED_JUDGE) -> None:
    """One feature a line, so that a change can be read."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in about["features"].items()]
    others = {name: value for name, value in about.items() if name != "features"}
    rest = json.dumps(others, indent=2, ensure_ascii=False)
    separator = ",\n"
    path.write_text(f'{rest[:-2]},\n  "features": {{\n{separator.join(lines)}\n  }}\n}}\n', encoding="utf-8")
