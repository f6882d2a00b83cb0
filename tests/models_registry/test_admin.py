from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from models_registry import deployments, tuning, weights
from models_registry.models import Deployment, FusionWeights, ModelVersion, Rollout, Slot
from ops.contracts.principal import SYSTEM

pytestmark = pytest.mark.django_db

ADMIN = "/admin/models_registry"
MakeVersion = Callable[..., ModelVersion]


@pytest.fixture
def admin(collections: set[str]) -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def activation(thing: Any, **answers: str) -> dict[str, Any]:
    return {"action": "activate", "_selected_action": [thing.pk], **answers}


def test_every_page_shows(admin: Client, make_version: MakeVersion) -> None:
    version = make_version()
    deployments.activate(Slot.LTR, version, by=SYSTEM)
    row = weights.change(weights.propose(1, 3), by=SYSTEM)
    for path in (
        "model/",
        f"model/{version.model_id}/change/",
        "modelversion/",
        f"modelversion/{version.pk}/change/",
        "artifact/",
        "deployment/",
        f"deployment/{row.pk}/change/",
        "fusionweights/",
        f"fusionweights/{row.weights_id}/change/",
    ):
        assert admin.get(f"{ADMIN}/{path}").status_code == 200, path
    page = admin.get(f"{ADMIN}/modelversion/{version.pk}/change/").content.decode()
    assert version.artifacts["model"] in page
    assert "25.0% / 75.0%" in admin.get(f"{ADMIN}/fusionweights/{row.weights_id}/change/").content.decode()


@pytest.mark.parametrize("table", ["model", "modelversion", "artifact", "deployment", "fusionweights"])
def test_nothing_can_be_edited_or_deleted_in_place(admin: Client, make_version: MakeVersion, table: str) -> None:
    version = make_version()
    deployments.activate(Slot.LTR, version, by=SYSTEM)
    row = weights.change(weights.propose(1, 3), by=SYSTEM)
    key = {
        "model": version.model_id,
        "modelversion": version.pk,
        "artifact": version.artifacts["model"],
        "deployment": row.pk,
        "fusionweights": row.weights_id,
    }[table]
    assert admin.post(f"{ADMIN}/{table}/{key}/change/", {"ltr": "9"}).status_code == 403
    assert admin.post(f"{ADMIN}/{table}/{key}/delete/", {"post": "yes"}).status_code == 403
    assert admin.get(f"{ADMIN}/{table}/add/").status_code == 403


def test_activating_a_version_asks_where_and_why(admin: Client, make_version: MakeVersion) -> None:
    version = make_version()
    form = admin.post(f"{ADMIN}/modelversion/", activation(version))
    assert form.status_code == 200
    assert "Activate ranker@1" in form.content.decode()
    assert not Deployment.objects.exists()

    without_reason = admin.post(f"{ADMIN}/modelversion/", activation(version, confirmed="yes"))
    assert "This field is required" in without_reason.content.decode()
    assert not Deployment.objects.exists()

    answers = {"confirmed": "yes", "reason": "better on papers", "collection": "papers"}
    done = admin.post(f"{ADMIN}/modelversion/", activation(version, **answers))
    assert done.status_code == 302
    row = Deployment.objects.get()
    assert (row.scope, row.model_version, row.by, row.reason) == ("papers", version, "ada", "better on papers")


def test_a_refused_activation_says_why_in_the_form(admin: Client, make_version: MakeVersion) -> None:
    answers = {"confirmed": "yes", "reason": "x", "collection": "nowhere"}
    page = admin.post(f"{ADMIN}/modelversion/", activation(make_version(), **answers))
    assert "There is no collection" in page.content.decode()
    assert not Deployment.objects.exists()


def test_activating_several_at_once_is_refused(admin: Client, make_version: MakeVersion) -> None:
    first, second = make_version(content=b"one"), make_version(content=b"two")
    data = {"action": "activate", "_selected_action": [first.pk, second.pk]}
    page = admin.post(f"{ADMIN}/modelversion/", data, follow=True)
    assert "exactly one" in page.content.decode()
    assert not Deployment.objects.exists()


WEIGHTS = f"{ADMIN}/fusionweights/"


def seen() -> str:
    row = deployments.effective(Slot.WEIGHTS, "global")
    return "" if row is None else str(row.pk)


class TestWeights:
    def send(self, admin: Client, path: str = WEIGHTS, **answers: str) -> Any:
        return admin.post(path, {"ltr": "0.7", "conceptual": "0.3", "do": "activate", "seen": seen()} | answers)

    def test_what_the_page_says_becomes_a_new_version_that_is_live(self, admin: Client) -> None:
        before = weights.change(weights.propose(6, 4), by=SYSTEM)
        assert self.send(admin, reason="more learning").status_code == 302
        live = Deployment.objects.get(ended_at=None)
        assert live.weights is not None
        assert (live.weights.ltr, live.weights.author, live.reason) == (0.7, "ada", "more learning")
        assert FusionWeights.objects.count() == 2
        assert FusionWeights.objects.get(pk=before.weights_id).ltr == 6

    def test_it_goes_back_and_forth_with_one_click(self, admin: Client) -> None:
        first = weights.change(weights.propose(6, 4), by=SYSTEM).weights
        weights.change(weights.propose(7, 3), by=SYSTEM)
        page = admin.get(WEIGHTS).content.decode()
        assert "Roll back to 0.60 / 0.40" in page
        self.send(admin, do="rollback", reason="worse")
        live = Deployment.objects.get(ended_at=None)
        assert (live.weights, live.reason) == (first, "worse")

    def test_weights_may_first_get_a_share_of_the_traffic(self, admin: Client) -> None:
        live = weights.change(weights.propose(6, 4), by=SYSTEM)
        answer = self.send(admin, do="canary", percent="10", reason="a try")
        rollout = Rollout.objects.get()
        assert answer["Location"] == f"{ADMIN}/rollout/{rollout.pk}/change/"
        assert (rollout.candidate.ltr, rollout.steps, rollout.reason) == (0.7, [10.0, 25.0, 100.0], "a try")
        assert Deployment.objects.get(ended_at=None, role="stable") == live
        page = admin.get(WEIGHTS).content.decode()
        assert f"Rollout {rollout.pk}" in page
        assert "Save as canary" not in page
        assert "under way" in self.send(admin, do="canary").content.decode()
        assert FusionWeights.objects.count() == 2

    def test_a_collection_has_weights_of_its_own_until_it_follows_again(self, admin: Client) -> None:
        weights.change(weights.propose(6, 4), by=SYSTEM)
        path = f"{WEIGHTS}?collection=papers"
        assert "counts in papers alone" in admin.get(path).content.decode()
        self.send(admin, path)
        own = deployments.effective(Slot.WEIGHTS, "papers")
        assert own is not None
        assert own.scope == "papers"
        assert "Follow all collections" in admin.get(path).content.decode()
        self.send(admin, path, do="remove", seen=str(own.pk))
        again = deployments.effective(Slot.WEIGHTS, "papers")
        assert again is not None
        assert again.scope == "global"

    def test_who_saw_older_weights_hears_of_the_newer_ones(self, admin: Client) -> None:
        old = weights.change(weights.propose(6, 4), by=SYSTEM)
        weights.change(weights.propose(9, 1), by=SYSTEM, reason="meanwhile")
        for action in ("activate", "rollback"):
            page = self.send(admin, do=action, seen=str(old.pk)).content.decode()
            assert "have changed since you opened this page. system put" in page
            assert 'value="0.7"' in page
        assert FusionWeights.objects.count() == 2

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"ltr": "-1"}, "must not be negative"),
            ({"ltr": "0", "conceptual": "0"}, "must not be 0"),
            ({"ltr": "nan"}, "Enter a number"),
            ({"ltr": "x"}, "Enter a number"),
            ({"do": "rollback"}, "no earlier fusion weights"),
        ],
    )
    def test_what_cannot_be_done_is_refused_in_the_form(
        self, admin: Client, changes: dict[str, str], told: str
    ) -> None:
        weights.change(weights.propose(6, 4), by=SYSTEM)
        page = self.send(admin, **changes)
        assert page.status_code == 200
        assert told in page.content.decode()
        assert FusionWeights.objects.count() == 1

    def test_an_unknown_collection_leads_back(self, admin: Client) -> None:
        page = admin.get(f"{WEIGHTS}?collection=nowhere", follow=True)
        assert "There is no collection" in page.content.decode()

    def test_the_history_shows_each_difference(self, admin: Client) -> None:
        for ltr in (6, 7, 5):
            weights.change(weights.propose(ltr, 10 - ltr), by=SYSTEM, reason=f"to <{ltr}>")
        page = admin.get(WEIGHTS).content.decode()
        assert page.index("-20 points") < page.index("+10 points") < page.index(">first<")
        assert "to &lt;6&gt;" in page

    def test_without_an_app_that_fuses_only_the_weights_are_shown(
        self, admin: Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        weights.change(weights.propose(6, 4), by=SYSTEM)
        monkeypatch.setattr(tuning, "_preview", None)
        monkeypatch.setattr(tuning, "_evaluator", None)
        page = admin.get(WEIGHTS).content.decode()
        assert "One query" not in page
        assert "judged" not in page
        assert admin.get(f"{WEIGHTS}preview/?query=x").status_code == 200

    def test_whoever_may_only_look_changes_nothing(self) -> None:
        live = weights.change(weights.propose(6, 4), by=SYSTEM)
        looker = User.objects.create_user("lou", is_staff=True)
        client = Client()
        client.force_login(looker)
        assert client.get(WEIGHTS).status_code == 403
        assert client.get(f"{WEIGHTS}preview/").status_code == 403
        looker.user_permissions.set(Permission.objects.filter(codename="view_fusionweights"))
        assert "You may look and compare" in client.get(WEIGHTS).content.decode()
        assert self.send(client).status_code == 403
        assert Deployment.objects.get(ended_at=None) == live


def test_whoever_may_only_look_cannot_activate(make_version: MakeVersion) -> None:
    looker = User.objects.create_user("lou", is_staff=True)
    looker.user_permissions.set(Permission.objects.filter(codename__in=["view_modelversion", "view_fusionweights"]))
    client = Client()
    client.force_login(looker)
    version = make_version()
    assert client.get(f"{ADMIN}/modelversion/").status_code == 200
    client.post(f"{ADMIN}/modelversion/", activation(version, confirmed="yes", reason="x"))
    assert client.get(f"{ADMIN}/fusionweights/add/").status_code == 403
    assert not Deployment.objects.exists()
