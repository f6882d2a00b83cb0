"""When the learned ranker is not to be trusted with a query: the simple fusion answers then, and the answer says why.

What is checked is evidence, not the score's size: learned scores are comparable within one query only.
"""

from __future__ import annotations

import numpy as np

from rag.pipeline.features import COLUMN
from rag.pipeline.ltr import Ranker, SimpleRanker
from rag.pipeline.types import FeatureMatrix, Float32Array, Int64Array

DEPTH = 10
LEAST_SHARED = 3
"""Of the ten best passages of both rankers. A sound ranker re-orders: below this it has gone its own way."""


def score_guarded(ranker: Ranker, features: FeatureMatrix) -> tuple[Float32Array, str, str | None]:
    """Scores, float32, shape (n,), the kind of ranker that made them, and why the simple one stood in if it did."""
    if ranker.kind == SimpleRanker.kind:
        return ranker.score(features), ranker.kind, None
    simple = SimpleRanker()
    simple_scores = simple.score(features)
    scores = ranker.score(features)
    reason = objection(features, scores, simple_scores)
    return (scores, ranker.kind, None) if reason is None else (simple_scores, simple.kind, reason)


def objection(features: FeatureMatrix, scores: Float32Array, simple_scores: Float32Array) -> str | None:
    """What speaks against the learned scores of a query, or ``None``. A query without candidates is fine."""
    if len(scores) == 0:
        return None
    if not features.values[:, COLUMN["agreement"]].any():
        return "The two retrievers found no passage in common."
    shared = len(np.intersect1d(_best(scores), _best(simple_scores)))
    if shared < min(LEAST_SHARED, len(scores)):
        return f"Of its {DEPTH} best passages only {shared} are among those of the simple fusion."
    return None


def _best(scores: Float32Array) -> Int64Array:
    return np.argsort(-scores, kind="stable")[:DEPTH]
