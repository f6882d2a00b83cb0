"""Rollouts: shares, steps, promotion and the end, also when two operators act at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_registry import deployments, rollouts, routing, weights
from models_registry.live import Candidate, LiveView, LiveWeights
from models_registry.models import Deployment, FusionWeights, ModelVersion, Role, Rollout, RolloutKey, RolloutMode, Slot
from models_registry.rollouts import Plan
from models_registry.routing import Routing, choose, gets_candidate, place_of
from ops.contracts.principal import ANONYMOUS, SYSTEM, Principal, PrincipalKind
from ops.contracts.problems import Conflict, Forbidden, InvalidRequest, NotFound, Problem, Unprocessable
from ops.models import AuditEvent
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db


def new_weights(ltr: float) -> FusionWeights:
    return weights.create_version(weights.propose(ltr, 1 - ltr), by=SYSTEM)


@pytest.fixture
def stable() -> Deployment:
    return weights.change(weights.propose(0.6, 0.4), by=SYSTEM)


@pytest.fixture
def everything_live(stable: Deployment, make_version: Callable[..., ModelVersion]) -> None:
    from models_registry.models import ModelKind

    deployments.activate(Slot.LTR, make_version(), by=SYSTEM)
    deployments.activate(Slot.EMBEDDER, make_version("mini", b"onnx", ModelKind.EMBEDDER), by=SYSTEM)


@pytest.fixture
def candidate(stable: Deployment) -> FusionWeights:
    return new_weights(0.7)


def beside(scope: str = "global") -> list[tuple[str, float | None]]:
    rows = deployments.live().filter(scope=scope).exclude(role=Role.STABLE)
    return [(row.role, row.percent) for row in rows]


def stable_now() -> FusionWeights | None:
    row = deployments.effective(Slot.WEIGHTS, "global")
    return row.weights if row else None


class TestPlan:
    def test_it_starts_with_the_first_share_beside_the_stable_version(
        self, stable: Deployment, candidate: FusionWeights, operator: Principal
    ) -> None:
        rollout = rollouts.start(candidate, by=operator, reason="clicks")
        assert (rollout.steps, rollout.percent, rollout.baseline_id) == ([5.0, 25.0, 100.0], 5.0, stable.pk)
        assert beside() == [("canary", 5.0)]
        assert stable_now() == stable.weights
        event = AuditEvent.objects.get(action="rollout.start")
        assert (event.actor, event.details["reason"]) == ("user:olga", "clicks")

    def test_it_steps_up_and_is_promoted_in_one_change(self, candidate: FusionWeights, operator: Principal) -> None:
        number = rollouts.start(candidate, by=operator).pk
        assert rollouts.step(number, by=operator).percent == 25
        assert rollouts.step(number, by=operator, percent=50).steps == [5, 25, 50, 100]
        rollouts.step(number, by=operator)
        with pytest.raises(Conflict, match="last share"):
            rollouts.step(number, by=operator)
        assert rollouts.promote(number, by=operator).state == "promoted"
        assert (stable_now(), beside()) == (candidate, [])
        shares = Deployment.objects.filter(rollout=number).order_by("id").values_list("percent", flat=True)
        assert list(shares) == [5, 25, 50, 100]

    def test_a_promotion_can_be_rolled_back(
        self, stable: Deployment, candidate: FusionWeights, operator: Principal
    ) -> None:
        rollouts.promote(rollouts.start(candidate, by=operator).pk, by=operator)
        deployments.rollback(Slot.WEIGHTS, by=operator)
        assert stable_now() == stable.weights

    def test_a_pause_takes_the_share_away_until_it_goes_on(self, candidate: FusionWeights, operator: Principal) -> None:
        number = rollouts.start(candidate, by=operator).pk
        rollouts.pause(number, by=operator, reason="lunch")
        assert beside() == []
        with pytest.raises(Conflict, match="is paused"):
            rollouts.step(number, by=operator)
        rollouts.resume(number, by=operator)
        assert beside() == [("canary", 5.0)]

    def test_an_abort_leaves_the_stable_version(
        self, stable: Deployment, candidate: FusionWeights, operator: Principal
    ) -> None:
        number = rollouts.start(candidate, by=operator).pk
        rollouts.abort(number, by=operator, reason="worse")
        assert (beside(), stable_now()) == ([], stable.weights)
        for change in (rollouts.abort, rollouts.promote, rollouts.step, rollouts.pause, rollouts.resume):
            with pytest.raises(Conflict, match="is aborted"):
                change(number, by=operator)

    def test_another_stable_version_ends_the_rollout_in_the_same_change(
        self, candidate: FusionWeights, operator: Principal
    ) -> None:
        number = rollouts.start(candidate, by=operator).pk
        weights.change(weights.propose(0.1, 0.9), by=operator)
        ended = rollouts.find(number)
        assert (ended.state, beside()) == ("aborted", [])
        assert "olga changed what is stable" in ended.outcome

    def test_a_collection_can_try_what_is_stable_nowhere(
        self, candidate: FusionWeights, operator: Principal, collections: set[str]
    ) -> None:
        number = rollouts.start(candidate, "manuals", Plan(steps=(100,)), by=operator).pk
        rollouts.promote(number, by=operator)
        assert deployments.effective(Slot.WEIGHTS, "manuals").weights == candidate  # type: ignore[union-attr]
        assert stable_now() != candidate

    def test_only_what_could_be_activated_can_be_started(
        self, stable: Deployment, operator: Principal, reader: Principal, make_version: Callable[..., ModelVersion]
    ) -> None:
        assert stable.weights is not None
        with pytest.raises(Conflict, match="is live in 'global' already"):
            rollouts.start(stable.weights, by=operator)
        with pytest.raises(Forbidden):
            rollouts.start(new_weights(0.9), by=reader)
        with pytest.raises(Conflict, match="No ranker is live"):
            rollouts.start(make_version(), by=operator)
        with pytest.raises(NotFound):
            rollouts.step(4711, by=operator)

    def test_a_version_whose_file_is_gone_is_not_started(
        self, make_version: Callable[..., ModelVersion], store: Any, operator: Principal
    ) -> None:
        deployments.activate(Slot.LTR, make_version(), by=operator)
        second = make_version(content=b"other trees")
        next(store.rglob(f"*{second.artifacts['model']}*")).unlink()
        with pytest.raises(Unprocessable, match="not well"):
            rollouts.start(second, by=operator)

    def test_one_rollout_at_a_time_has_a_place(self, candidate: FusionWeights, operator: Principal) -> None:
        rollouts.start(candidate, by=operator)
        with pytest.raises(Conflict, match="is under way"):
            rollouts.start(new_weights(0.8), by=operator)

    @pytest.mark.parametrize(
        ("plan", "field"),
        [
            ({"steps": ()}, "steps"),
            ({"steps": (25, 5)}, "steps"),
            ({"steps": (0,)}, "steps"),
            ({"steps": (101,)}, "steps"),
            ({"steps": (float("nan"),)}, "steps"),
            ({"key": RolloutKey.COOKIE}, "key_name"),
            ({"key_name": "X"}, "key_name"),
            ({"alpha": 0}, "alpha"),
            ({"min_samples": 0}, "min_samples"),
            ({"step_minutes": 0}, "step_minutes"),
            ({"mode": RolloutMode.SHADOW, "automatic": True}, "automatic"),
            ({"guardrails": {"speed": 1}}, "guardrails.speed"),
        ],
    )
    def test_a_plan_that_cannot_be_followed_is_refused_by_field(
        self, candidate: FusionWeights, operator: Principal, plan: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(InvalidRequest) as refusal:
            rollouts.start(candidate, plan=Plan(**plan), by=operator)
        assert set(refusal.value.errors) == {field}


@pytest.mark.django_db(transaction=True)
class TestTwoOperators:
    def test_of_two_starts_one_is_refused(self, candidate: FusionWeights, operator: Principal) -> None:
        other = new_weights(0.8)
        results = at_once(
            lambda: rollouts.start(candidate, by=operator),
            lambda: rollouts.start(other, by=operator),
        )
        assert sorted(type(result).__name__ for result in results) == ["Conflict", "Rollout"]
        assert len(beside()) == 1

    def test_a_promotion_and_an_abort_at_once_leave_one_of_them_and_one_stable_version(
        self, stable: Deployment, candidate: FusionWeights, operator: Principal
    ) -> None:
        number = rollouts.start(candidate, by=operator).pk
        results = at_once(
            lambda: rollouts.promote(number, by=operator),
            lambda: rollouts.abort(number, by=operator),
        )
        assert sum(isinstance(result, Conflict) for result in results) == 1
        rows = deployments.live().filter(slot=Slot.WEIGHTS, scope="global")
        assert [row.role for row in rows] == ["stable"]
        state = rollouts.find(number).state
        assert (state, stable_now()) in [("promoted", candidate), ("aborted", stable.weights)]

    def test_whatever_everybody_does_at_once_there_is_one_stable_version(
        self, candidate: FusionWeights, operator: Principal
    ) -> None:
        number = rollouts.start(candidate, by=operator).pk
        results = at_once(
            lambda: rollouts.promote(number, by=operator),
            lambda: rollouts.step(number, by=operator),
            lambda: rollouts.pause(number, by=operator),
            lambda: weights.change(weights.propose(0.3, 0.7), by=operator),
        )
        assert all(isinstance(result, Rollout | Deployment | Problem) for result in results)
        roles = [row.role for row in deployments.live().filter(slot=Slot.WEIGHTS, scope="global")]
        assert roles.count("stable") == 1
        assert rollouts.find(number).state in {"promoted", "aborted"}


def candidate_of(percent: float, key: RolloutKey = RolloutKey.REQUEST, name: str = "", salt: str = "s") -> Candidate:
    return Candidate(LiveWeights(1, "global", 2, 0.7, 0.3), 1, "canary", percent, key, name, salt)


class TestRouting:
    @given(st.text(), st.text(), st.floats(0, 100), st.floats(0, 100))
    def test_a_share_that_rises_only_adds_keys(self, salt: str, key: str, first: float, second: float) -> None:
        low, high = sorted((first, second))
        routing = Routing(key, ANONYMOUS)
        if gets_candidate(candidate_of(low, salt=salt), routing):
            assert gets_candidate(candidate_of(high, salt=salt), routing)

    def test_a_share_is_the_share_of_the_keys(self) -> None:
        places = [place_of("salt", f"request-{number}") for number in range(20_000)]
        assert sum(place < 5 for place in places) / len(places) == pytest.approx(0.05, abs=0.005)
        assert all(0 <= place < 100 for place in places)

    def test_rollouts_choose_independently_of_each_other(self) -> None:
        keys = [f"user-{number}" for number in range(20_000)]
        both = sum(place_of("one", key) < 50 and place_of("two", key) < 50 for key in keys)
        assert both / len(keys) == pytest.approx(0.25, abs=0.01)

    def test_the_key_says_who_stays_with_a_variant(self) -> None:
        user = Principal(PrincipalKind.USER, "ada", frozenset(), user_id=7)
        api_key = Principal(PrincipalKind.API_KEY, "k3jd", frozenset())
        for key, name, asked in [
            (RolloutKey.USER, "", lambda request: Routing(request, user)),
            (RolloutKey.API_KEY, "", lambda request: Routing(request, api_key)),
            (RolloutKey.HEADER, "X-Tenant", lambda request: Routing(request, ANONYMOUS, headers={"X-Tenant": "acme"})),
            (RolloutKey.COOKIE, "visitor", lambda request: Routing(request, ANONYMOUS, cookies={"visitor": "v1"})),
        ]:
            found = {gets_candidate(candidate_of(50, key, name), asked(f"r{number}")) for number in range(50)}
            assert len(found) == 1

    def test_without_the_key_a_query_goes_by_its_request(self) -> None:
        found = {gets_candidate(candidate_of(50, RolloutKey.USER), Routing(f"r{n}", ANONYMOUS)) for n in range(50)}
        assert found == {True, False}

    def test_a_header_can_pin_the_variant(self) -> None:
        for value, expected in (("canary", True), ("stable", False)):
            routing = Routing("r", ANONYMOUS, headers={"X-Variant": value})
            for percent in (0.001, 100):
                assert gets_candidate(candidate_of(percent, RolloutKey.HEADER, "X-Variant"), routing) is expected

    def test_every_process_sees_the_share_and_chooses_by_it(
        self, everything_live: None, operator: Principal, view: LiveView, settings: Any
    ) -> None:
        settings.REGISTRY_REFRESH_INTERVAL_MS = 0
        rollout = rollouts.start(new_weights(0.9), plan=Plan(steps=(50,)), by=operator)
        chosen = [choose("papers", Routing(f"r{number}", ANONYMOUS), view) for number in range(100)]
        assert {choice.variant for choice in chosen} == {"stable", "canary"}
        for choice in chosen:
            assert choice.weights.ltr == (0.9 if choice.variant == "canary" else 0.6)
            assert [arm.rollout_id for arm in choice.arms] == [rollout.pk]
        assert choose("papers", None, view).arms == ()
        rollouts.pause(rollout.pk, by=operator)
        assert choose("papers", Routing("r", ANONYMOUS), view).arms == ()

    def test_a_collection_with_a_choice_of_its_own_takes_no_part_in_a_global_rollout(
        self, everything_live: None, operator: Principal, view: LiveView, collections: set[str], settings: Any
    ) -> None:
        settings.REGISTRY_REFRESH_INTERVAL_MS = 0
        weights.change(weights.propose(0.2, 0.8), "manuals", by=operator)
        rollouts.start(new_weights(0.9), plan=Plan(steps=(100,)), by=operator)
        assert choose("papers", Routing("r", ANONYMOUS), view).variant == "canary"
        assert choose("manuals", Routing("r", ANONYMOUS), view).variant == "stable"

    def test_a_shadow_is_computed_beside_and_never_served(
        self, everything_live: None, operator: Principal, view: LiveView
    ) -> None:
        view.expire()
        rollouts.start(new_weights(0.9), plan=Plan(mode=RolloutMode.SHADOW, steps=(100,)), by=operator)
        choice = choose("papers", Routing("r", ANONYMOUS), view)
        assert (choice.variant, choice.weights.ltr, choice.arms) == ("stable", 0.6, ())
        ((arm, shadow),) = choice.shadows
        assert (arm.variant, shadow.weights.ltr, shadow.ranker) == ("shadow", 0.9, choice.ranker)
        assert routing.arms_from_json([arm.as_json()]) == [arm]
