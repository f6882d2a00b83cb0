"""A rollout in the pipeline: who is served what, what is cached for whom, and what stands in the shadow."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from models_registry import guardian, rollouts, statistics, weights
from models_registry.live import view
from models_registry.models import FusionWeights, Rollout, RolloutKey, RolloutMode
from models_registry.rollouts import Plan
from models_registry.versions import find_version
from ops.contracts.principal import SYSTEM
from rag.models import Collection, QueryLog
from rag.pipeline import shadow
from rag.pipeline.search import SearchRequest, search
from rag.pipeline.shadow import rank_biased_overlap
from rag.query_log import _writer
from tests.rag.pipeline.support import Text, fill

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]

HEADER = "X-Variant"
PINNED = Plan(steps=(50,), key=RolloutKey.HEADER, key_name=HEADER)


@pytest.fixture(autouse=True)
def _fresh(settings: Any) -> Iterator[None]:
    settings.REGISTRY_REFRESH_INTERVAL_MS = 0
    statistics.recorder().forget()
    statistics.forget()
    view.expire()
    yield
    statistics.recorder().forget()
    statistics.forget()
    view.expire()


@pytest.fixture
def collection(db: None) -> Collection:
    collection = Collection.objects.create(slug="c")
    fill(
        collection,
        {
            "honey": Text("Honey is nectar that bees have thickened."),
            "mites": Text("Mites weaken a hive of bees."),
            "tax": Text("Income tax is due at the end of January."),
        },
    )
    return collection


def conceptual_only() -> FusionWeights:
    return weights.create_version(weights.propose(0, 1), by=SYSTEM)


def ask(query: str = "bees", variant: str = "stable", **given: Any) -> dict[str, Any]:
    return search(SearchRequest(query, collection="c", **given), SYSTEM, headers={HEADER: variant})


def counted(rollout: Rollout) -> tuple[Counter[str], Counter[str]]:
    statistics.recorder().flush()
    standing = guardian.standing_of(rollout)
    return standing.canary, standing.stable


class TestCanary:
    def test_each_variant_is_served_its_own_and_says_so(self, collection: Collection) -> None:
        stable = weights.change(weights.propose(0.5, 0.5), by=SYSTEM).weights
        assert stable is not None
        candidate = conceptual_only()
        rollouts.start(candidate, plan=PINNED, by=SYSTEM)
        for variant, version in (("stable", stable), ("canary", candidate)):
            answer = ask(variant=variant)
            assert (answer["variant"], answer["fusion_weights_version"]) == (variant, version.version)

    def test_no_variant_is_ever_answered_from_the_others_answer(self, collection: Collection) -> None:
        candidate = conceptual_only()
        rollouts.start(candidate, plan=PINNED, by=SYSTEM)
        seen = []
        for variant in ("stable", "canary", "stable", "canary"):
            answer = ask(variant=variant)
            assert (answer["fusion_weights_version"] == candidate.version) == (variant == "canary")
            seen.append(answer["cache"])
        # Features don't depend on weights, so that they are shared: the candidate's first answer costs one fusion.
        assert seen == ["none", "feature", "full", "full"]

    def test_a_candidate_ranker_shares_no_features(self, collection: Collection) -> None:
        rollouts.start(find_version("simple@1"), plan=PINNED, by=SYSTEM)
        answers = [ask(variant=variant) for variant in ("stable", "canary", "canary")]
        assert [answer["cache"] for answer in answers] == ["none", "none", "full"]
        assert [answer["models"]["ltr"] == "simple@1" for answer in answers] == [False, True, True]

    def test_answers_are_counted_for_the_variant_that_made_them(self, collection: Collection) -> None:
        rollout = rollouts.start(conceptual_only(), plan=PINNED, by=SYSTEM)
        for variant, queries in (("canary", ("bees", "bees", "hive")), ("stable", ("tax",))):
            for query in queries:
                ask(query, variant)
        canary, stable = counted(rollout)
        assert (canary["answers"], stable["answers"]) == (3, 1)
        # An answer that a cache helped says nothing of how long the variant takes.
        assert sum(statistics.buckets_of(canary).values()) == 2

    def test_the_query_log_keeps_the_variant(self, collection: Collection) -> None:
        rollout = rollouts.start(conceptual_only(), plan=PINNED, by=SYSTEM)
        answer = ask(variant="canary")
        _writer().flush()
        log = QueryLog.objects.get(request_id=answer["request_id"])
        assert log.snapshot["variant"] == "canary"
        assert log.snapshot["arms"][0][0] == rollout.pk

    def test_a_share_of_the_requests_is_served_the_candidate(self, collection: Collection) -> None:
        rollouts.start(conceptual_only(), plan=Plan(steps=(50,)), by=SYSTEM)
        ids = random.Random(5)
        variants = Counter(
            search(SearchRequest("bees", collection="c"), SYSTEM, request_id=f"{ids.getrandbits(128):032x}")["variant"]
            for _ in range(60)
        )
        assert variants["canary"] > 10
        assert variants["stable"] > 10

    def test_what_a_rollout_leaves_is_the_stable_answer(self, collection: Collection) -> None:
        before = ask()["fusion_weights_version"]
        rollout = rollouts.start(conceptual_only(), plan=PINNED, by=SYSTEM)
        ask(variant="canary")
        rollouts.abort(rollout.pk, by=SYSTEM)
        answer = ask(variant="canary")
        assert (answer["variant"], answer["fusion_weights_version"]) == ("stable", before)


@pytest.mark.django_db(transaction=True)
class TestShadow:
    def test_the_stable_answer_is_served_and_the_candidate_compared(self, collection: Collection) -> None:
        rollout = rollouts.start(find_version("simple@1"), plan=Plan(mode=RolloutMode.SHADOW, steps=(100,)), by=SYSTEM)
        answer = ask()
        assert answer["variant"] == "stable"
        assert answer["models"]["ltr"] != "simple@1"
        shadow.wait()
        canary, stable = counted(rollout)
        assert (canary["compared"], canary["errors"], stable["answers"]) == (1, 0, 1)

    def test_a_shadow_of_the_same_ranking_overlaps_wholly(self, collection: Collection) -> None:
        same = weights.create_version(weights.propose(8, 2), by=SYSTEM)
        weights.change(weights.propose(0.8, 0.2), by=SYSTEM)
        rollout = rollouts.start(same, plan=Plan(mode=RolloutMode.SHADOW, steps=(100,)), by=SYSTEM)
        ask()
        shadow.wait()
        reading = next(
            one for one in guardian.standing_of(_flushed(rollout)).readings if one.guardrail == "shadow_overlap"
        )
        assert reading.canary == pytest.approx(1.0, abs=1e-5)


def _flushed(rollout: Rollout) -> Rollout:
    statistics.recorder().flush()
    return rollout


class TestRankBiasedOverlap:
    def test_equal_rankings_overlap_wholly_and_disjoint_ones_not_at_all(self) -> None:
        assert rank_biased_overlap([1, 2, 3], [1, 2, 3]) == pytest.approx(1.0)
        assert rank_biased_overlap([1, 2, 3], [4, 5, 6]) == 0.0
        assert rank_biased_overlap([], []) == 1.0
        assert rank_biased_overlap([1], []) == 0.0

    def test_it_is_what_the_definition_gives(self) -> None:
        """RBO_ext of equal length: (1-p)/p · Σ (X_d / d) p^d + (X_k / k) p^k, for [1,2,3] and [1,3,4]."""
        p = 0.9
        by_hand = (1 - p) / p * (1 * p + 1 / 2 * p**2 + 2 / 3 * p**3) + 2 / 3 * p**3
        assert rank_biased_overlap([1, 2, 3], [1, 3, 4], p) == pytest.approx(by_hand)

    def test_it_is_symmetric_and_the_first_ranks_weigh_most(self) -> None:
        base = list(range(10))
        first, last = [99, *base[1:]], [*base[:-1], 99]
        assert rank_biased_overlap(base, first) == rank_biased_overlap(first, base)
        assert rank_biased_overlap(base, first) < rank_biased_overlap(base, last) < 1
