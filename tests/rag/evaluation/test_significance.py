"""The paired randomisation test against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rag.evaluation.significance import Comparison, compare, paired


def test_the_randomisation_test_is_exact_on_a_case_worked_out_by_hand() -> None:
    better = {str(i): 0.6 for i in range(8)}
    worse = {str(i): 0.5 for i in range(8)}
    found = compare({"new": {"c": better}, "old": {"c": worse}}, "new", "old")
    assert found.difference == pytest.approx(0.1)
    assert (found.wins, found.losses, found.ties) == (8, 0, 0)
    # Only the two assignments in which all signs agree are as extreme: 2 / 2⁸.
    assert found.p_value == pytest.approx(2 / 256, abs=0.003)
    same = compare({"new": {"c": worse}, "old": {"c": worse}}, "new", "old")
    assert same.p_value == 1.0
    assert same.ties == 8


def test_equal_differences_of_opposite_sign_are_no_difference() -> None:
    found = paired(np.array([0.2, -0.2, 0.0]), np.full(3, 1 / 3))
    assert found == Comparison(difference=0.0, p_value=1.0, wins=1, losses=1, ties=1)


def test_one_query_can_never_be_significant() -> None:
    assert paired(np.array([1.0]), np.array([1.0])).p_value == 1.0


def test_nothing_to_compare_is_no_difference() -> None:
    assert paired(np.empty(0), np.empty(0)) == Comparison(0.0, 1.0, 0, 0, 0)


def test_a_small_collection_counts_as_much_as_a_large_one() -> None:
    scores = {
        "new": {"large": {str(i): 0.5 for i in range(9)}, "small": {"q": 0.9}},
        "old": {"large": {str(i): 0.5 for i in range(9)}, "small": {"q": 0.5}},
    }
    assert compare(scores, "new", "old").difference == pytest.approx(0.2)


def test_many_queries_are_tested_block_by_block_and_twice_alike() -> None:
    deltas = np.random.default_rng(1).normal(0.05, 1, 3000)
    shares = np.full(3000, 1 / 3000)
    first = paired(deltas, shares, permutations=1200)
    assert first == paired(deltas, shares, permutations=1200)
    # The normal approximation of the same test.
    z = float(deltas.sum() / np.sqrt((deltas**2).sum()))
    two_sided = float(np.mean(np.abs(np.random.default_rng(2).standard_normal(200_000)) >= abs(z)))
    assert first.p_value == pytest.approx(two_sided, abs=0.05)
