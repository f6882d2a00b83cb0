"""The rankers: each turns a query's feature matrix into one score a candidate, and can say what made it.

RankerError
└── ModelFormatError    the bytes are no model that this program can use
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

import numpy as np

from rag.pipeline.features import COLUMN, FEATURES, SCHEMA_VERSION
from rag.pipeline.fusion import min_max
from rag.pipeline.types import FeatureMatrix, Float32Array, Float64Array

if TYPE_CHECKING:
    import lightgbm

_START = "zenglow_start:"


class RankerError(Exception):
    """A ranker can't be loaded or used."""


class ModelFormatError(RankerError):
    """The model is damaged, or made for other features."""


class Ranker(Protocol):
    """Both methods raise `RankerError` for features of another schema version than the ranker's."""

    kind: ClassVar[str]

    def score(self, features: FeatureMatrix) -> Float32Array:
        """float32, shape (n,): higher is better, comparable within the query only."""

    def explain(self, features: FeatureMatrix) -> Float64Array:
        """float64, shape (n, len(FEATURES) + 1): each feature's part in the score, then what no feature decides.

        Each row sums to the candidate's score.
        """


@dataclass(frozen=True, slots=True)
class LinearRanker:
    """score = Σ weight · feature; `weights`: float64, shape (len(FEATURES),), in the schema's order."""

    weights: Float64Array
    kind: ClassVar[str] = "linear"

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Self:
        """From weights by feature name; the features that are not named weigh nothing."""
        unknown = sorted(set(weights) - set(FEATURES))
        if unknown:
            raise ModelFormatError(f"There are no features named {', '.join(unknown)}.")
        vector = np.array([weights.get(name, 0.0) for name in FEATURES], dtype=np.float64)
        if not np.isfinite(vector).all():
            raise ModelFormatError("The weights must be finite numbers.")
        return cls(vector)

    @classmethod
    def from_bytes(cls, model: bytes) -> Self:
        """From JSON as `to_bytes` writes it. Raises `ModelFormatError`."""
        try:
            fields = json.loads(model)
            version, weights = fields["feature_schema_version"], fields["weights"]
            numbers = {str(name): float(weight) for name, weight in weights.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFormatError(f"A linear ranker is JSON with weights by feature: {error!r}.") from None
        _check_version(version)
        return cls.of(numbers)

    def to_bytes(self) -> bytes:
        weights = {name: weight for name, weight in zip(FEATURES, self.weights.tolist(), strict=True) if weight}
        return json.dumps({"feature_schema_version": SCHEMA_VERSION, "weights": weights}, indent=1).encode() + b"\n"

    def score(self, features: FeatureMatrix) -> Float32Array:
        _check_version(features.schema_version)
        return (features.values.astype(np.float64) @ self.weights).astype(np.float32)

    def explain(self, features: FeatureMatrix) -> Float64Array:
        _check_version(features.schema_version)
        return np.column_stack([features.values * self.weights, np.zeros(len(features.values))])


@dataclass(frozen=True, slots=True)
class SimpleRanker:
    """The plain hybrid, half dense and half BM25: what stands in when nothing better is known."""

    kind: ClassVar[str] = "simple"

    def score(self, features: FeatureMatrix) -> Float32Array:
        _check_version(features.schema_version)
        return features.values[:, COLUMN["convex"]].copy()

    def explain(self, features: FeatureMatrix) -> Float64Array:
        contributions = np.zeros((len(features.values), len(FEATURES) + 1))
        contributions[:, COLUMN["convex"]] = self.score(features)
        return contributions


@dataclass(frozen=True, slots=True)
class LightGbmRanker:
    """Trees that correct a linear ranker: score = scale · min_max(linear score) + Σ leaf values.

    The boosting began from that linear score, so with few trees it is never far from it.
    """

    booster: lightgbm.Booster
    start: LinearRanker
    scale: float
    kind: ClassVar[str] = "lightgbm"

    @classmethod
    def from_bytes(cls, model: bytes) -> Self:
        """From LightGBM's model text with one line more, as `to_bytes` writes it.

        Raises `ModelFormatError` for anything but whole numerical trees over exactly our features.
        """
        text, found, last_line = _decoded(model).rstrip("\n").rpartition(f"\n{_START}")
        if not found:
            raise ModelFormatError("The model does not say what its boosting began from.")
        try:
            fields = json.loads(last_line)
            version, scale, weights = fields["feature_schema_version"], float(fields["scale"]), fields["weights"]
            numbers = {str(name): float(weight) for name, weight in weights.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFormatError(f"The line '{_START}' of the model is damaged: {error!r}.") from None
        _check_version(version)
        if not (math.isfinite(scale) and scale > 0):
            raise ModelFormatError(f"The scale of the start must be positive, not {scale}.")
        _check_trees(text)
        # It brings scipy and scikit-learn: 100 MB and seconds that processes without a ranker are spared.
        import lightgbm

        try:
            booster = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise ModelFormatError(f"LightGBM refuses the model: {error}") from None
        return cls(booster, LinearRanker.of(numbers), scale)

    def to_bytes(self) -> bytes:
        start = json.loads(self.start.to_bytes()) | {"scale": self.scale}
        return f"{self.booster.model_to_string().rstrip()}\n{_START}{json.dumps(start)}\n".encode("ascii")

    def cut(self, trees: int) -> LightGbmRanker:
        """The ranker as it was after its first `trees` trees."""
        # Importing it costs too much for processes without a ranker: see `from_bytes`.
        import lightgbm

        text = self.booster.model_to_string(num_iteration=trees)
        return LightGbmRanker(lightgbm.Booster(model_str=text), self.start, self.scale)

    def score(self, features: FeatureMatrix) -> Float32Array:
        start = self.start.score(features)
        if len(start) == 0:
            return start
        trees = self.booster.predict(features.values, raw_score=True, num_threads=1)
        scores: Float32Array = (self.scale * min_max(start) + np.asarray(trees)).astype(np.float32)
        return scores

    def explain(self, features: FeatureMatrix) -> Float64Array:
        contributions = self.start.explain(features)
        if len(contributions) == 0:
            return contributions
        start = contributions.sum(axis=1)
        low, spread = start.min(), start.max() - start.min()
        if spread > 0:
            contributions *= self.scale / spread
            contributions[:, -1] -= self.scale * low / spread
        else:
            contributions[:] = 0.0
            contributions[:, -1] = self.scale / 2
        trees = self.booster.predict(features.values, pred_contrib=True, num_threads=1)
        contributions += np.asarray(trees)
        return contributions


def load_ranker(kind: str, model: bytes) -> Ranker:
    """The ranker of a stored version. Raises `ModelFormatError`."""
    if kind == SimpleRanker.kind:
        return SimpleRanker()
    if kind == LinearRanker.kind:
        return LinearRanker.from_bytes(model)
    if kind == LightGbmRanker.kind:
        return LightGbmRanker.from_bytes(model)
    raise ModelFormatError(f"There is no ranker of kind {kind!r}; there are lightgbm, linear and simple.")


def _check_version(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise ModelFormatError(
            f"The features are of schema version {SCHEMA_VERSION}, the ranker's of version {version}; train it again."
        )


def _decoded(model: bytes) -> str:
    try:
        return model.decode("ascii")
    except UnicodeDecodeError:
        raise ModelFormatError("A LightGBM model is a text file.") from None


def _check_trees(text: str) -> None:
    """Make certain that LightGBM can read the model without reading beyond its own arrays.

    LightGBM believes the indices of a model text: a wrong one ends the process instead of raising.
    """
    whole, _, _ = text.partition("\nend of trees\n")
    header, *trees = re.split(r"(?=^Tree=)", whole + "\n", flags=re.MULTILINE)
    fields = _fields(header)
    if whole == text or not header.startswith("tree\n") or fields.get("num_class") != "1":
        raise ModelFormatError("This is no whole LightGBM model text of one class.")
    if fields.get("feature_names", "").split() != list(FEATURES):
        raise ModelFormatError(f"The model has other features than schema version {SCHEMA_VERSION}; train it again.")
    if fields.get("max_feature_idx") != str(len(FEATURES) - 1):
        raise ModelFormatError("The model's number of features is wrong.")
    # LightGBM cuts the text into trees by these sizes.
    if fields.get("tree_sizes", "").split() != [str(len(tree)) for tree in trees]:
        raise ModelFormatError("The model lacks some of its trees.")
    for tree in trees:
        _check_tree(_fields(tree))


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.split("\n") if "=" in line)


def _check_tree(fields: Mapping[str, str]) -> None:
    try:
        leaves = int(fields["num_leaves"])
        if leaves < 1 or fields["num_cat"] != "0" or fields.get("is_linear", "0") != "0":
            raise ModelFormatError("Only plain numerical trees are supported.")
        if not all(math.isfinite(value) for value in _numbers(fields, "leaf_value", leaves)):
            raise ModelFormatError("A tree has a leaf value that is not finite.")
        if leaves == 1:
            return
        nodes = leaves - 1
        for name in ("threshold", "decision_type", "split_gain", "internal_value", "internal_weight", "internal_count"):
            _numbers(fields, name, nodes)
        for name in ("leaf_weight", "leaf_count"):
            _numbers(fields, name, leaves)
        split_features = _numbers(fields, "split_feature", nodes)
        children = [_numbers(fields, name, nodes) for name in ("left_child", "right_child")]
    except (KeyError, ValueError) as error:
        raise ModelFormatError(f"A tree is damaged: {error!r}.") from None
    if not all(value in range(len(FEATURES)) for value in split_features):
        raise ModelFormatError("A tree splits on a feature that does not exist.")
    # A node's children are leaves (negative: −1 − leaf) or later nodes, each the child of exactly one.
    expected = [*range(-leaves, 0), *range(1, nodes)]
    if sorted([*children[0], *children[1]]) != expected or any(
        0 <= child <= node for side in children for node, child in enumerate(side)
    ):
        raise ModelFormatError("A tree's nodes do not form a tree.")


def _numbers(fields: Mapping[str, str], name: str, count: int) -> list[float]:
    numbers = [float(value) for value in fields[name].split(" ")]
    if len(numbers) != count:
        raise ModelFormatError(f"A tree has {len(numbers)} values of {name}, not {count}.")
    return numbers
