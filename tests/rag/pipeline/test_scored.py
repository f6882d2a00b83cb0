"""What the feature cache keeps comes back as it was."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rag.pipeline.scored import ScoredCandidates

floats = st.floats(width=32, allow_nan=False)
counts = st.integers(0, 40)


@st.composite
def scored(draw: st.DrawFn) -> ScoredCandidates:
    n, width = draw(counts), draw(st.integers(0, 20))
    return ScoredCandidates(
        chunk_ids=draw(arrays(np.int64, n)),
        document_ids=draw(arrays(np.int64, n)),
        distances=draw(arrays(np.float32, n, elements=floats)),
        dense_ranks=draw(arrays(np.int32, n)),
        lexical_ranks=draw(arrays(np.int32, n)),
        features=draw(arrays(np.float32, (n, width), elements=floats)),
        ltr_scores=draw(arrays(np.float32, n, elements=floats)),
        ranker=draw(st.sampled_from(["lightgbm", "linear", "simple"])),
        safeguard=draw(st.none() | st.text()),
    )


@given(scored())
def test_it_comes_back_as_it_was(before: ScoredCandidates) -> None:
    after = ScoredCandidates.from_bytes(before.to_bytes())
    for field in fields(ScoredCandidates):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, np.ndarray):
            assert (new.dtype, new.shape) == (old.dtype, old.shape), field.name
            np.testing.assert_array_equal(new, old)
        else:
            assert new == old
    assert after.to_bytes() == before.to_bytes()
