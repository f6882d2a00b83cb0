"""The last stage: one score from the learned and the conceptual one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.pipeline.types import Float64Array, FusedScores, FusionWeights, Int64Array


def fuse(
    chunk_ids: Int64Array,
    ltr_scores: NDArray[np.floating],
    conceptual: NDArray[np.floating],
    weights: FusionWeights,
) -> FusedScores:
    """Weighted sum of both scores, each scaled to [0, 1] over the whole candidate union.

    All inputs have shape (n,), in the same order; conceptual = 1 − cosine distance. Order: fused score descending,
    ties by chunk id ascending. ValueError where a score is not finite or the shapes differ.
    """
    if not len(chunk_ids) == len(ltr_scores) == len(conceptual):
        raise ValueError(f"{len(chunk_ids)} chunks, {len(ltr_scores)} and {len(conceptual)} scores")
    if not (np.isfinite(ltr_scores).all() and np.isfinite(conceptual).all()):
        raise ValueError("scores must be finite")
    ltr_norm = min_max(ltr_scores)
    conceptual_norm = min_max(conceptual)
    # Clipped because the two weights can sum to one rounding error more than 1.
    fused = np.clip(weights.ltr * ltr_norm + weights.conceptual * conceptual_norm, 0.0, 1.0)
    return FusedScores(
        conceptual=np.asarray(conceptual, dtype=np.float64),
        conceptual_norm=conceptual_norm,
        ltr=np.asarray(ltr_scores, dtype=np.float64),
        ltr_norm=ltr_norm,
        fused=fused,
        order=np.lexsort((chunk_ids, -fused)),
        weights=weights,
    )


def min_max(scores: NDArray[np.floating]) -> Float64Array:
    """Scores scaled to [0, 1], float64; 0.5 for each where all are equal."""
    values = np.asarray(scores, dtype=np.float64)
    if len(values) == 0:
        return values
    low, high = values.min(), values.max()
    if not high > low:
        return np.full(len(values), 0.5)
    if not np.isfinite(float(high) - float(low)):
        values, low, high = values / 2, low / 2, high / 2
    scaled: Float64Array = (values - low) / (high - low)
    return scaled
