from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rag.pipeline.fusion import fuse, min_max
from rag.pipeline.types import FusionWeights

finite = st.floats(allow_nan=False, allow_infinity=False)
scores = st.integers(0, 30).flatmap(
    lambda n: st.tuples(arrays(np.float64, n, elements=finite), arrays(np.float64, n, elements=st.floats(-1, 1)))
)
shares = st.tuples(st.floats(0, 1e300), st.floats(0, 1e300)).filter(lambda pair: max(pair) > 0)


def ids(n: int) -> np.ndarray:
    return np.arange(5, 5 + n, dtype=np.int64)


@given(scores, shares)
def test_it_keeps_every_norm_and_the_fused_score_between_0_and_1(pair, share):
    fused = fuse(ids(len(pair[0])), *pair, FusionWeights(*share))
    for values in (fused.ltr_norm, fused.conceptual_norm, fused.fused):
        assert np.all((values >= 0) & (values <= 1))


@given(scores, shares)
def test_it_orders_by_fused_score_and_breaks_ties_by_chunk_id(pair, share):
    fused = fuse(ids(len(pair[0])), *pair, FusionWeights(*share))
    expected = sorted(range(len(pair[0])), key=lambda i: (-fused.fused[i], i))
    assert fused.order.tolist() == expected


@given(scores, shares, st.randoms(use_true_random=False))
def test_it_does_not_depend_on_the_order_of_the_candidates(pair, share, random):
    chunk_ids = ids(len(pair[0]))
    shuffled = list(range(len(chunk_ids)))
    random.shuffle(shuffled)
    weights = FusionWeights(*share)
    straight = fuse(chunk_ids, *pair, weights)
    mixed = fuse(chunk_ids[shuffled], pair[0][shuffled], pair[1][shuffled], weights)
    assert chunk_ids[straight.order].tolist() == chunk_ids[shuffled][mixed.order].tolist()


@given(scores)
def test_it_ranks_by_one_score_alone_when_the_other_weighs_nothing(pair):
    n = len(pair[0])
    fused = fuse(ids(n), *pair, FusionWeights(1.0, 0.0))
    assert np.array_equal(fused.fused, fused.ltr_norm)
    fused = fuse(ids(n), *pair, FusionWeights(0.0, 2.5))
    assert np.array_equal(fused.fused, fused.conceptual_norm)


@given(scores, shares, st.data())
def test_a_better_ltr_score_never_lowers_the_fused_score_of_a_candidate_below_the_best(pair, share, data):
    ltr, conceptual = pair
    if len(ltr) < 3:
        return
    candidate = data.draw(st.integers(0, len(ltr) - 1))
    if ltr[candidate] in (ltr.max(), ltr.min()):
        return
    raised = ltr.copy()
    raised[candidate] = data.draw(st.floats(ltr[candidate], ltr.max()))
    weights = FusionWeights(*share)
    before = fuse(ids(len(ltr)), ltr, conceptual, weights).fused[candidate]
    after = fuse(ids(len(ltr)), raised, conceptual, weights).fused[candidate]
    assert after >= before


@given(shares)
def test_weights_sum_to_one_and_keep_their_ratio(share):
    weights = FusionWeights(*share)
    assert weights.ltr + weights.conceptual == pytest.approx(1.0)
    assert 0 <= weights.ltr <= 1
    assert (weights.ltr >= weights.conceptual) == (share[0] >= share[1]) or share[0] == pytest.approx(share[1])


@pytest.mark.parametrize("pair", [(0, 0), (-0.1, 1), (float("nan"), 1), (1, float("inf"))])
def test_it_refuses_weights_without_meaning(pair):
    with pytest.raises(ValueError, match="fusion weights"):
        FusionWeights(*pair)


def test_it_computes_a_case_worked_out_by_hand():
    fused = fuse(np.array([7, 8, 9]), np.array([1.0, 3.0, 2.0]), np.array([0.9, 0.1, 0.5]), FusionWeights(0.75, 0.25))
    assert fused.fused == pytest.approx([0.25, 0.75, 0.5])
    assert fused.order.tolist() == [1, 2, 0]


def test_equal_scores_count_half():
    assert min_max(np.array([3.0, 3.0])).tolist() == [0.5, 0.5]
    assert min_max(np.array([-1e308, 1e308])).tolist() == [0.0, 1.0]


def test_it_refuses_what_is_not_a_number_and_lengths_that_differ():
    with pytest.raises(ValueError, match="finite"):
        fuse(ids(2), np.array([1.0, np.nan]), np.array([0.0, 1.0]), FusionWeights(1, 1))
    with pytest.raises(ValueError, match="3 chunks"):
        fuse(ids(3), np.array([1.0, 2.0]), np.array([0.0, 1.0]), FusionWeights(1, 1))
