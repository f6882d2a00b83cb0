"""The geometry of the plots, worked out by hand."""

from __future__ import annotations

import pytest

from ops.plots import Bar, diverging_bar, number
from rag.pages.explanations import SHOWN, explanation_of
from rag.pipeline.features import FEATURES


@pytest.mark.parametrize(
    ("value", "limit", "expected"),
    [
        (2.0, 4.0, Bar("more", "100", "50")),
        (-1.0, 4.0, Bar("less", "75", "25")),
        (-4.0, 4.0, Bar("less", "0", "100")),
        (9.0, 4.0, Bar("more", "100", "100")),
        (0.0, 4.0, Bar("less", "100", "0")),
        (1.0, 0.0, Bar("more", "100", "0")),
    ],
)
def test_a_diverging_bar_begins_at_zero(value: float, limit: float, expected: Bar) -> None:
    assert diverging_bar(value, limit) == expected


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0, 100, 1 / 3, 2.5, -0.001)] == ["0", "100", "0.33", "2.5", "0"]


def result(parts: dict[str, float]) -> dict[str, object]:
    contributions = dict.fromkeys((*FEATURES, "base"), 0.0) | parts
    return {
        "contributions": contributions,
        "features": dict.fromkeys(FEATURES, 0.5),
        "ltr_score": sum(contributions.values()),
    }


def test_the_largest_parts_come_first_and_nothing_is_lost() -> None:
    parts = {name: (-1) ** place * (place + 1.0) for place, name in enumerate(FEATURES[:12])} | {"base": -3.0}
    explanation = explanation_of(result(parts))
    assert explanation is not None
    assert [one.part for one in explanation.largest] == [-12.0, 11.0, -10.0, 9.0, -8.0, 7.0, -6.0, 5.0]
    assert (len(explanation.largest), explanation.others, explanation.others_part) == (SHOWN, 4, -2.0)
    assert explanation.largest[0].bar == Bar("less", "0", "100")
    shown = sum(one.part for one in explanation.largest) + explanation.others_part + explanation.base
    assert shown == explanation.total


def test_features_without_a_part_have_no_row() -> None:
    explanation = explanation_of(result({"cosine_norm": 0.5}))
    assert explanation is not None
    assert [one.name for one in explanation.largest] == ["cosine_norm"]
    assert explanation.others == 0


def test_without_contributions_there_is_nothing_to_explain() -> None:
    assert explanation_of({"ltr_score": 1.0}) is None
