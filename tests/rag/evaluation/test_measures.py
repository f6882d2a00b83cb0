"""The measures against values worked out by hand."""

from __future__ import annotations

from math import log2

import pytest

from rag.evaluation.measures import means, per_query


def test_a_case_worked_out_by_hand() -> None:
    judgements = {"q": {"a": 2, "b": 1, "c": 1, "d": 0}}
    ranking = ["x", "b", "d", "a"]
    ideal = 2 / log2(2) + 1 / log2(3) + 1 / log2(4)
    assert per_query({"q": ranking}, judgements) == {
        "q": {
            "ndcg@10": pytest.approx((1 / log2(3) + 2 / log2(5)) / ideal),
            "recall@100": pytest.approx(2 / 3),
            "mrr@10": pytest.approx(1 / 2),
        }
    }


def test_only_the_first_ten_count_for_ndcg_and_mrr_and_the_first_hundred_for_recall() -> None:
    judgements = {"q": {"a": 1, "b": 1}}
    padding = [f"x{number}" for number in range(200)]

    def values(first: int, second: int) -> dict[str, float]:
        ranking = list(padding)
        ranking[first], ranking[second] = "a", "b"
        return per_query({"q": ranking}, judgements)["q"]

    assert values(9, 99) == {
        "ndcg@10": pytest.approx(1 / log2(11) / (1 + 1 / log2(3))),
        "recall@100": 1.0,
        "mrr@10": pytest.approx(0.1),
    }
    assert values(10, 100) == {"ndcg@10": 0.0, "recall@100": 0.5, "mrr@10": 0.0}


def test_the_order_given_is_the_order_measured() -> None:
    # By name, z would come last: what ties in a score must not be reordered.
    judgements = {"q": {"z": 1}}
    assert per_query({"q": ["z", "a", "b"]}, judgements)["q"]["mrr@10"] == 1.0
    assert per_query({"q": ["a", "z", "b"]}, judgements)["q"]["mrr@10"] == 0.5


def test_every_judged_query_counts() -> None:
    nothing = {"ndcg@10": 0.0, "recall@100": 0.0, "mrr@10": 0.0}
    judgements = {"missing": {"a": 1}, "empty": {"a": 1}, "irrelevant": {"a": 0}, "found": {"a": 1}}
    rankings = {"empty": [], "irrelevant": ["a"], "found": ["a"], "not judged": ["a"]}
    values = per_query(rankings, judgements)
    assert values == {
        "empty": nothing,
        "found": {"ndcg@10": 1.0, "recall@100": 1.0, "mrr@10": 1.0},
        "irrelevant": nothing,
        "missing": nothing,
    }
    assert means(values) == {"ndcg@10": 0.25, "recall@100": 0.25, "mrr@10": 0.25}


def test_the_mean_of_nothing_is_zero() -> None:
    assert means({}) == {"ndcg@10": 0.0, "recall@100": 0.0, "mrr@10": 0.0}
    assert per_query({}, {}) == {}
