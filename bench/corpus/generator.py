"""More of a real sample: vectors and passages that behave as the sample does, as many as wanted.

A generated vector lies between a real one and one of its nearest neighbours, moved by the difference of two further
neighbours: so it stays in the thin layer around the real ones, in as many directions as they spread in there. How far
it is moved is fitted: as far as makes the local intrinsic dimension of the generated vectors that of the real ones.
A generated passage is the first half of the one's text and the second half of the other's, so common words stay
common. New words don't come with more passages, which makes postings longer than in real text of that size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
STEPS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3, 1.6)

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Generated:
    """vectors: float32, unit length; first, second: which real ones each is made of."""

    vectors: Vectors
    first: Numbers
    second: Numbers


class Generator:
    """Makes vectors like those of ``real`` (float32, shape (n, dimension), unit length)."""

    def __init__(self, real: Vectors, step: float | None = None) -> None:
        self._real = real
        self._neighbours, _ = nearest(real, real, NEIGHBOURS + 1)
        self._neighbours = self._neighbours[:, 1:]
        self.step = self._fit() if step is None else step

    def make(self, count: int, seed: int) -> Generated:
        """The same for the same seed."""
        return self._make(count, seed, self.step)

    def _make(self, count: int, seed: int, step: float) -> Generated:
        random = np.random.default_rng(seed)
        first = random.integers(len(self._real), size=count)
        places = np.argsort(random.random((count, NEIGHBOURS)), axis=1)[:, :3]
        second, third, fourth = (self._neighbours[first, places[:, i]] for i in range(3))
        share = random.random((count, 1), dtype=np.float32) / 2
        moved = self._real[first] * (1 - share) + self._real[second] * share
        moved += step * (self._real[third] - self._real[fourth])
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
        return Generated(moved.astype(np.float32), first, second)

    def _fit(self) -> float:
        wanted = intrinsic_dimension(self._real)
        found = [intrinsic_dimension(self._make(len(self._real), 1, step).vectors) for step in STEPS]
        return (
            float(np.interp(wanted, found, STEPS))
            if np.all(np.diff(found) > 0)
            else float(STEPS[int(np.argmin(np.abs(np.array(found) - wanted)))])
        )


def nearest(queries: Vectors, vectors: Vectors, count: int) -> tuple[Numbers, Vectors]:
    """For each query the ``count`` nearest by cosine, best first: (positions, similarities)."""
    positions = np.empty((len(queries), count), dtype=np.int64)
    similarities = np.empty((len(queries), count), dtype=np.float32)
    for start in range(0, len(queries), 512):
        scores = queries[start : start + 512] @ vectors.T
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        of_best = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-of_best, axis=1, kind="stable")
        positions[start : start + 512] = np.take_along_axis(best, order, axis=1)
        similarities[start : start + 512] = np.take_along_axis(of_best, order, axis=1)
    return positions, similarities


def intrinsic_dimension(vectors: Vectors, neighbours: int = 20, sample: int = 1000) -> float:
    """Median over a sample of the maximum likelihood estimate of Levina and Bickel (2004), equation 8."""
    chosen = vectors[np.random.default_rng(0).permutation(len(vectors))[:sample]]
    _, similarities = nearest(chosen, vectors, neighbours + 1)
    distances = np.sqrt(np.maximum(2 - 2 * similarities[:, 1:].astype(np.float64), 1e-12))
    logs = np.log(distances[:, -1:] / distances[:, :-1])
    return float(np.median(1.0 / np.maximum(logs.mean(axis=1), 1e-9)))
