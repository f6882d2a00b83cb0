"""Whether one ranking is better than another on the same queries, or only luckier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rag.pipeline.types import Float64Array

SEED = 20
PERMUTATIONS = 10_000
_BLOCK = 500
"""Permutations at a time: with 10,000 queries 40 MB."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """difference: of the macro means; p_value: two-sided; wins, losses, ties: queries."""

    difference: float
    p_value: float
    wins: int
    losses: int
    ties: int


def compare(
    scores: Mapping[str, Mapping[str, Mapping[str, float]]], row: str, baseline: str, permutations: int = PERMUTATIONS
) -> Comparison:
    """Two rows of ``{row: {collection: {query id: value}}}`` over the same queries; collections count alike."""
    deltas, shares = [], []
    for name, queries in scores[row].items():
        for query_id, value in queries.items():
            deltas.append(value - scores[baseline][name][query_id])
            shares.append(1 / len(queries) / len(scores[row]))
    return paired(np.array(deltas), np.array(shares), permutations)


def paired(deltas: Float64Array, shares: Float64Array, permutations: int = PERMUTATIONS) -> Comparison:
    """Paired randomisation test of differences by query (Smucker, Allan and Carterette, 2007).

    deltas, shares: float64, shape (queries,); the shares sum to 1. Without queries nothing differs.
    """
    weighted = deltas * shares
    observed = float(weighted.sum())
    generator = np.random.default_rng(SEED)
    as_extreme = 0
    for first in range(0, permutations, _BLOCK):
        size = (min(_BLOCK, permutations - first), len(deltas))
        signs = generator.choice((-1.0, 1.0), size=size)
        as_extreme += int(np.count_nonzero(np.abs(signs @ weighted) >= abs(observed) - 1e-12))
    return Comparison(
        difference=observed,
        p_value=float((as_extreme + 1) / (permutations + 1)),
        wins=int(np.count_nonzero(deltas > 0)),
        losses=int(np.count_nonzero(deltas < 0)),
        ties=int(np.count_nonzero(deltas == 0)),
    )
