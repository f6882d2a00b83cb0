"""The highest of many scores, without sorting the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag.pipeline.types import Int64Array


def best(scores: np.typing.NDArray[np.floating[Any]], depth: int) -> Int64Array:
    """Places of the ``depth`` highest scores, int64, best first; of equals the first comes first."""
    if len(scores) > depth:
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        places = np.flatnonzero(scores >= least)
    else:
        places = np.arange(len(scores))
    # Places ascend, and a stable sort leaves equals in their order.
    return places[np.argsort(-scores[places], kind="stable")[:depth]]
