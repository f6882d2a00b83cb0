"""Rollouts over HTTP, in the admin, and from the shell."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.test import Client

from models_registry import deployments, rollouts, statistics, weights
from models_registry.guardrails import ALPHA, GUARDRAILS, MIN_SAMPLES
from models_registry.models import FusionWeights, Rollout, Slot
from models_registry.routing import Arm, observe_answer
from ops.contracts.principal import SYSTEM, Scope
from tests.models_registry.test_weights_api import ClientOf, assert_problem, client_of, send

__all__ = ["client_of"]

pytestmark = pytest.mark.django_db

ROLLOUTS = "/registry/rollouts"

FORM = {
    "ltr": "0.7",
    "conceptual": "0.3",
    "mode": "canary",
    "steps": "5, 100",
    "step_minutes": "60",
    "key": "request",
    "reason": "try it",
    "min_samples": str(MIN_SAMPLES),
    "alpha": str(ALPHA),
    **{f"limit_{one.name}": str(one.limit) for one in GUARDRAILS.values()},
}
"""The admin's form as a browser sends it when only the weights and the reason were filled in."""


@pytest.fixture(autouse=True)
def _nothing_counted_yet(embedded_stack: object) -> Iterator[None]:
    statistics.recorder().forget()
    statistics.forget()
    yield
    statistics.recorder().forget()
    statistics.forget()


@pytest.fixture
def api(client_of: ClientOf, collections: set[str]) -> Client:
    return client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE)


@pytest.fixture(autouse=True)
def stable() -> FusionWeights:
    row = weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
    assert row.weights is not None
    return row.weights


def count(rollout: Rollout, variant: str, answers: int, **facts: Any) -> None:
    share = rollout.deployments.get(ended_at=None)
    for _ in range(answers):
        observe_answer([Arm(rollout.pk, share.pk, variant, rollout.slot)], duration_ms=12.0, **facts)
    statistics.recorder().flush()


class TestApi:
    def start(self, api: Client, **more: Any) -> Any:
        return send(api, "POST", ROLLOUTS, {"weights": {"ltr": 0.7, "conceptual": 0.3}, **more})

    def test_a_rollout_goes_from_its_first_share_to_the_stable_version(self, api: Client) -> None:
        response = self.start(api, steps=[5, 50], reason="more clicks", guardrails={"click_rate": None})
        assert response.status_code == 201, response.content
        body = response.json()
        assert (body["percent"], body["state"], body["mode"], body["reason"]) == (5, "running", "canary", "more clicks")
        assert "click_rate" not in body["guardrails"]
        one = f"{ROLLOUTS}/{body['id']}"
        assert send(api, "POST", f"{one}/step", {}).json()["percent"] == 50
        assert send(api, "POST", f"{one}/pause", {"reason": "lunch"}).json()["state"] == "paused"
        assert send(api, "POST", f"{one}/resume", {}).json()["state"] == "running"
        assert send(api, "POST", f"{one}/promote", {}).json()["state"] == "promoted"
        assert api.get("/rag/fusion/weights").json()["ltr"] == 0.7
        assert_problem(send(api, "POST", f"{one}/abort", {}), 409, "conflict")
        assert [row["id"] for row in api.get(f"{ROLLOUTS}?state=promoted").json()["results"]] == [body["id"]]

    def test_it_shows_live_figures_of_both_variants(self, api: Client) -> None:
        rollout = rollouts.find(self.start(api).json()["id"])
        count(rollout, "stable", 30)
        count(rollout, "canary", 10, empty=True)
        figures = api.get(f"{ROLLOUTS}/{rollout.pk}").json()["figures"]
        assert (figures["candidate"]["answers"], figures["stable"]["answers"]) == (10, 30)
        assert (figures["candidate"]["empty_rate"], figures["stable"]["empty_rate"]) == (1.0, 0.0)
        assert figures["candidate"]["p95_ms"] == pytest.approx(12, rel=0.011)
        assert {reading["guardrail"] for reading in figures["readings"]} >= {"latency_ratio", "empty_rate"}

    def test_faults_are_named(self, api: Client, client_of: ClientOf) -> None:
        assert_problem(send(api, "POST", ROLLOUTS, {}), 400, "invalid-request")
        assert "steps" in assert_problem(self.start(api, steps=[50, 5]), 400, "invalid-request")["errors"]
        for limits in ({"latency_ratio": 0.5}, {"shadow_overlap": 0.5}, {"speed": 1}):
            errors = assert_problem(self.start(api, guardrails=limits), 400, "invalid-request")["errors"]
            assert list(errors) == [f"guardrails.{name}" for name in limits]
        assert FusionWeights.objects.count() == 1, "no weights were made for a rollout that never began"
        assert_problem(self.start(api, collection="nowhere"), 404, "not-found")
        assert_problem(send(api, "POST", ROLLOUTS, {"model_version": "none@1"}), 404, "not-found")
        assert_problem(api.get(f"{ROLLOUTS}/99"), 404, "not-found")
        assert_problem(self.start(client_of(Scope.REGISTRY_READ)), 403, "forbidden")
        self.start(api)
        assert_problem(self.start(api), 409, "conflict")

    def test_a_key_that_is_limited_to_collections_sees_no_others_rollouts(
        self, api: Client, client_of: ClientOf
    ) -> None:
        manuals = self.start(api, collection="manuals").json()["id"]
        papers = self.start(api, collection="papers").json()["id"]
        limited = client_of(Scope.REGISTRY_READ, Scope.REGISTRY_WRITE, collections=["manuals"])
        assert [row["id"] for row in limited.get(ROLLOUTS).json()["results"]] == [manuals]
        assert_problem(limited.get(f"{ROLLOUTS}/{papers}"), 404, "not-found")
        assert_problem(send(limited, "POST", f"{ROLLOUTS}/{papers}/abort", {}), 404, "not-found")


class TestAdmin:
    @pytest.fixture
    def admin(self, collections: set[str]) -> Client:
        client = Client()
        client.force_login(User.objects.create_superuser("ada"))
        return client

    def test_an_operator_starts_watches_promotes_and_looks_back(self, admin: Client) -> None:
        base = "/admin/models_registry/rollout/"
        assert "Guardrails" in admin.get(f"{base}add/").content.decode()
        response = admin.post(f"{base}add/", FORM, follow=True)
        rollout = Rollout.objects.get()
        assert (rollout.by, rollout.reason, rollout.percent) == ("ada", "try it", 5)
        assert "Promote" in response.content.decode()
        count(rollout, "canary", 4)
        assert "12.1 ms" in admin.get(f"{base}{rollout.pk}/figures/").content.decode()
        assert admin.get(f"{base}{rollout.pk}/act/promote/").status_code == 405
        admin.post(f"{base}{rollout.pk}/act/promote/", {"reason": "good"})
        page = admin.get(f"{base}{rollout.pk}/change/").content.decode()
        assert "Promoted" in page or "promoted" in page
        assert "act/promote/" not in page
        assert "act/take_back/" in page
        admin.post(f"{base}{rollout.pk}/act/take_back/", {"reason": "complaints"})
        row = deployments.effective(Slot.WEIGHTS, "global")
        assert row is not None
        assert row.weights is not None
        assert (row.weights.ltr, row.reason, row.by) == (0.6, "complaints", "ada")
        assert "formaction" not in admin.get(f"{base}{rollout.pk}/change/").content.decode()
        assert admin.get(base).status_code == 200
        assert admin.get("/admin/models_registry/modelstat/").status_code == 200

    def test_a_form_that_is_no_plan_says_what_is_missing(self, admin: Client) -> None:
        form = FORM | {"conceptual": "", "steps": "5, x", "key": "cookie", "reason": "r"}
        page = admin.post("/admin/models_registry/rollout/add/", form).content.decode()
        assert "Give both weights" in page
        assert "Write the shares as" in page
        assert not Rollout.objects.exists()

    def test_the_operator_sets_the_limits_of_the_guardrails(self, admin: Client) -> None:
        page = admin.get("/admin/models_registry/rollout/add/").content.decode()
        assert 'name="limit_latency_ratio" value="1.5"' in page
        limits = {"limit_latency_ratio": "1.2", "limit_click_rate": "", "min_samples": "50", "alpha": "0.01"}
        admin.post("/admin/models_registry/rollout/add/", FORM | limits)
        rollout = Rollout.objects.get()
        assert rollout.guardrails["latency_ratio"] == 1.2
        assert "click_rate" not in rollout.guardrails
        assert "shadow_overlap" not in rollout.guardrails
        assert (rollout.min_samples, rollout.alpha) == (50, 0.01)

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("limit_latency_ratio", "0.5", "From 1 to 100, not 0.5"),
            ("limit_error_rate", "nan", "Enter a number"),
            ("min_samples", "0", "From 1 to 10,000,000"),
            ("alpha", "1", "Between 0 and 1"),
        ],
    )
    def test_a_limit_that_is_none_is_told_beside_its_field(
        self, admin: Client, field: str, value: str, says: str
    ) -> None:
        form = admin.post("/admin/models_registry/rollout/add/", FORM | {field: value}).context["form"]
        assert says in form.errors[field][0]
        assert not Rollout.objects.exists()
        assert FusionWeights.objects.count() == 1, "no weights were made for a rollout that never began"

    def test_a_shadow_is_judged_by_its_own_guardrails(self, admin: Client) -> None:
        form = FORM | {"mode": "shadow", "steps": "100", "limit_shadow_overlap": "0.8"}
        admin.post("/admin/models_registry/rollout/add/", form)
        limits = Rollout.objects.get().guardrails
        assert limits["shadow_overlap"] == 0.8
        assert "click_rate" not in limits

    def test_whoever_may_only_look_can_change_nothing(self, collections: set[str]) -> None:
        rollout = rollouts.start(weights.create_version(weights.propose(1, 1), by=SYSTEM), by=SYSTEM)
        client = Client()
        client.force_login(User.objects.create_user("sid", is_staff=True))
        base = f"/admin/models_registry/rollout/{rollout.pk}/"
        for response in (client.post(f"{base}act/abort/"), client.get(f"{base}change/"), client.get(f"{base}figures/")):
            assert response.status_code == 403
        assert rollouts.find(rollout.pk).is_open


class TestCommand:
    def run(self, *arguments: str) -> str:
        output = io.StringIO()
        call_command("rollout", *arguments, stdout=output)
        return output.getvalue()

    def test_it_starts_shows_steps_and_aborts(self) -> None:
        assert "No rollout is under way" in self.run("status")
        assert "5 % of the traffic" in self.run(
            "start", "0.7:0.3", "--reason", "clicks", "--guardrail", "click_rate=off"
        )
        number = str(Rollout.objects.get().pk)
        assert "latency_ratio" in self.run("status", number)
        assert "40 % of the traffic" in self.run("step", number, "--to", "40")
        assert "aborted" in self.run("abort", number, "--reason", "enough")
        assert "enough" in self.run("status", "--all")

    @pytest.mark.parametrize(
        "arguments",
        [
            ("start", "0.7:x"),
            ("start", "nobody@1"),
            ("start", "1:1", "--steps", "a"),
            ("start", "1:1", "--guardrail", "speed=1"),
            ("promote", "99"),
        ],
    )
    def test_bad_input_is_one_line_and_exit_code_2(self, arguments: tuple[str, ...]) -> None:
        with pytest.raises(CommandError) as refusal:
            self.run(*arguments)
        assert refusal.value.returncode == 2
        assert "\n" not in str(refusal.value)
