"""The sequential tests: what they promise is simulated, with a seed, and looked at after every few samples."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_registry import guardrails, sequential, sketch
from models_registry.guardrails import GUARDRAILS, OVERLAP_SCALE, read
from models_registry.sequential import log_evidence, lower_bound, upper_bound
from models_registry.statistics import Tally
from ops.contracts.problems import InvalidRequest

ALPHA = 0.05
ROLLOUTS = 100
SAMPLES = 1500
PEEK_EVERY = 50


class TestBounds:
    @given(st.integers(0, 300), st.integers(1, 300), st.sampled_from([0.001, 0.05, 0.5]))
    def test_they_enclose_the_mean_of_what_was_seen(self, hits: int, count: int, alpha: float) -> None:
        hits = min(hits, count)
        assert 0 <= lower_bound(hits, count, alpha) <= hits / count <= upper_bound(hits, count, alpha) <= 1

    @given(st.integers(0, 50), st.integers(1, 50))
    def test_the_lower_bound_of_hits_mirrors_the_upper_bound_of_misses(self, hits: int, count: int) -> None:
        hits = min(hits, count)
        assert lower_bound(hits, count, 0.05) == pytest.approx(1 - upper_bound(count - hits, count, 0.05), abs=1e-9)

    def test_without_samples_nothing_is_known(self) -> None:
        assert (lower_bound(0, 0, 0.05), upper_bound(0, 0, 0.05)) == (0.0, 1.0)
        assert sequential.quantile_lower_bound({}, 0.95, 0.05) == 0.0
        assert sequential.quantile_upper_bound({}, 0.95, 0.05) == math.inf

    @pytest.mark.parametrize(("hits", "count", "rate"), [(0, 1, 0.5), (1, 2, 0.3), (3, 4, 0.9)])
    def test_the_evidence_is_the_mixture_of_likelihood_ratios(self, hits: int, count: int, rate: float) -> None:
        """The beta-binomial against a plain numerical integral over Jeffreys' prior, by substitution q = sin²θ."""
        angles = (np.arange(20_000) + 0.5) / 20_000 * (math.pi / 2)
        q = np.sin(angles) ** 2
        ratio = (q / rate) ** hits * ((1 - q) / (1 - rate)) ** (count - hits)
        assert math.exp(log_evidence(hits, count, rate)) == pytest.approx(float(ratio.mean()), rel=1e-4)

    def test_a_quantile_lies_between_its_bounds(self) -> None:
        values = np.random.default_rng(1).lognormal(3, 0.5, 2000)
        buckets = Counter(map(sketch.bucket_of, values.tolist()))
        true = float(np.quantile(np.random.default_rng(2).lognormal(3, 0.5, 200_000), 0.95))
        low = sequential.quantile_lower_bound(buckets, 0.95, 0.05)
        high = sequential.quantile_upper_bound(buckets, 0.95, 0.05)
        assert low < true < high
        assert high / low < 1.3


def simulated(
    seed: int, *, slower: float = 1.0, errors: float = 0.0, empty: float = 0.1, clicks: float = 0.3
) -> tuple[bool, int]:
    """Whether a rollout is ever rolled back when it is looked at every `PEEK_EVERY` samples, and at which sample."""
    random = np.random.default_rng(seed)
    limits = guardrails.checked(
        {"latency_ratio": 1.0, "error_rate": 0.0, "empty_rate": 0.0, "click_rate": 0.0}, shadow=False
    )
    tallies: list[Tally] = [Counter(), Counter()]
    arms = [
        (random.lognormal(3, 0.6, SAMPLES) * (slower if ours else 1.0), random.random((3, SAMPLES)), ours)
        for ours in (True, False)
    ]
    for start in range(0, SAMPLES, PEEK_EVERY):
        chosen = slice(start, start + PEEK_EVERY)
        for tally, (durations, chances, ours) in zip(tallies, arms, strict=True):
            tally["answers"] += PEEK_EVERY
            tally["errors"] += int((chances[0, chosen] < (errors if ours else 0.0)).sum())
            tally["empty"] += int((chances[1, chosen] < (empty if ours else 0.1)).sum())
            tally["clicked"] += int((chances[2, chosen] < (clicks if ours else 0.3)).sum())
            buckets = np.ceil(np.log(durations[chosen]) / math.log(sketch.GAMMA)).astype(int)
            tally.update(f"b{bucket}" for bucket in buckets.tolist())
        readings = read(tallies[0], tallies[1], limits, min_samples=100, alpha=ALPHA)
        if any(reading.breached for reading in readings):
            return True, start + PEEK_EVERY
    return False, SAMPLES


class TestRates:
    """Every limit is 0 or 1 here, so that an equal candidate stands exactly at it: no case is harder."""

    def test_false_alarms_stay_below_what_was_asked_for_although_everybody_peeks(self) -> None:
        alarms = sum(simulated(seed)[0] for seed in range(ROLLOUTS))
        assert alarms / ROLLOUTS <= ALPHA

    def test_a_test_that_is_no_sequential_one_would_not(self) -> None:
        """The plain two-proportion z-test at the same looks: what the sequential test is there to avoid."""
        alarms = 0
        for seed in range(ROLLOUTS):
            random = np.random.default_rng(seed)
            hits = (random.random((2, SAMPLES)) < 0.1).cumsum(axis=1)[:, PEEK_EVERY - 1 :: PEEK_EVERY]
            n = np.arange(PEEK_EVERY, SAMPLES + 1, PEEK_EVERY)
            pooled = np.maximum(hits.sum(axis=0) / (2 * n), 1e-9)
            z = (hits[0] - hits[1]) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)
            alarms += bool((np.abs(z) > 1.96).any())
        assert alarms / ROLLOUTS > 3 * ALPHA

    @pytest.mark.parametrize(
        "worse",
        [{"slower": 2.0}, {"errors": 0.05}, {"empty": 0.25}, {"clicks": 0.15}],
        ids=lambda worse: next(iter(worse)),
    )
    def test_a_worse_candidate_is_detected(self, worse: dict[str, float]) -> None:
        found = [simulated(seed, **worse) for seed in range(40)]
        assert sum(detected for detected, _ in found) / len(found) >= 0.95

    def test_a_candidate_that_always_fails_is_detected_at_once(self) -> None:
        assert all(simulated(seed, errors=1.0) == (True, 100) for seed in range(5))


class TestReadings:
    limits = {"error_rate": 0.01}

    def test_nothing_is_breached_before_the_least_samples(self) -> None:
        canary, stable = Counter(answers=99, errors=99), Counter(answers=5000)
        (reading,) = read(canary, stable, self.limits, min_samples=100, alpha=ALPHA)
        assert not reading.breached
        canary = Counter(answers=100, errors=100)
        (reading,) = read(canary, stable, self.limits, min_samples=100, alpha=ALPHA)
        assert reading.breached
        assert reading.sentence == "100.0% of its answers failed or were degraded against 0.0%; 1.0% more is allowed"

    def test_without_a_stable_sample_nothing_can_be_compared(self) -> None:
        (reading,) = read(Counter(answers=500, errors=500), Counter(), self.limits, min_samples=1, alpha=ALPHA)
        assert not reading.breached

    def test_a_shadow_that_ranks_otherwise_is_breached_by_its_mean_overlap(self) -> None:
        limits = {"shadow_overlap": 0.6}
        for overlap, breached in ((0.3, True), (0.9, False)):
            tally = Counter(compared=400, overlap=int(400 * overlap * OVERLAP_SCALE))
            (reading,) = read(tally, Counter(), limits, min_samples=100, alpha=ALPHA)
            assert (reading.canary, reading.breached) == (pytest.approx(overlap), breached)

    def test_without_samples_a_reading_says_so(self) -> None:
        for name in GUARDRAILS:
            (reading,) = read(Counter(), Counter(), {name: GUARDRAILS[name].limit}, min_samples=1, alpha=ALPHA)
            assert (reading.sentence, reading.breached) == ("no samples yet", False)


class TestLimits:
    def test_what_is_not_given_has_its_default(self) -> None:
        assert guardrails.checked({"latency_ratio": 3}, shadow=False) == {
            name: 3 if name == "latency_ratio" else GUARDRAILS[name].limit for name in guardrails.FOR_CANARY
        }

    def test_a_guardrail_can_be_left_out(self) -> None:
        assert "click_rate" not in guardrails.checked({"click_rate": None}, shadow=False)

    @pytest.mark.parametrize("limit", [-1, math.nan, math.inf, 2])
    def test_a_limit_out_of_bounds_is_refused_by_name(self, limit: float) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            guardrails.checked({"error_rate": limit, "speed": 1}, shadow=False)
        assert set(refusal.value.errors) == {"guardrails.error_rate", "guardrails.speed"}
