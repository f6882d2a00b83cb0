"""The simple fusion answers where there is no evidence for the learned order, and what it costs is bounded."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rag.pipeline.features import COLUMN, extract
from rag.pipeline.ltr import LinearRanker, SimpleRanker
from rag.pipeline.safeguard import LEAST_SHARED, objection, score_guarded
from rag.pipeline.types import FeatureMatrix
from rag.recipes.ltr import START
from tests.rag.pipeline.candidates import drawn

SOUND = LinearRanker.of(START)
REVERSED = LinearRanker.of({name: -weight for name, weight in START.items()})


@pytest.fixture
def features() -> FeatureMatrix:
    """Of forty candidates, some of which both retrievers found."""
    found = extract(*drawn(3, n=40))
    assert found.values[:, COLUMN["agreement"]].all()
    return found


def test_a_ranker_that_reorders_the_simple_fusion_is_trusted(features: FeatureMatrix) -> None:
    scores, kind, reason = score_guarded(SOUND, features)
    assert (kind, reason) == ("linear", None)
    assert np.array_equal(scores, SOUND.score(features))


@pytest.mark.parametrize("seed", range(5))
def test_a_ranker_that_learned_the_opposite_never_answers(seed: int) -> None:
    features = extract(*drawn(seed, n=40))
    scores, kind, reason = score_guarded(REVERSED, features)
    assert kind == "simple"
    assert reason
    assert np.array_equal(scores, SimpleRanker().score(features))


def test_retrievers_without_a_common_passage_are_no_evidence(features: FeatureMatrix) -> None:
    values = features.values.copy()
    values[:, COLUMN["agreement"]] = 0
    _, kind, reason = score_guarded(SOUND, replace(features, values=values))
    assert kind == "simple"
    assert "no passage in common" in (reason or "")


@pytest.mark.parametrize(("shared", "fine"), [(LEAST_SHARED - 1, False), (LEAST_SHARED, True)])
def test_the_ten_best_must_have_some_in_common(features: FeatureMatrix, shared: int, fine: bool) -> None:
    places = np.arange(len(features.values), dtype=np.float32)
    moved = np.roll(places, 10 - shared)
    reason = objection(features, -moved, -places)
    assert (reason is None) == fine
    assert fine or f"only {shared} " in (reason or "")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_very_few_candidates_are_ranked_by_whatever_is_live(n: int) -> None:
    features = extract(*drawn(1, n=30))
    few = replace(features, values=features.values[:n])
    assert score_guarded(SOUND, few)[1:] == ("linear", None)


def test_the_simple_ranker_needs_no_guard(features: FeatureMatrix) -> None:
    assert score_guarded(SimpleRanker(), features)[1:] == ("simple", None)
