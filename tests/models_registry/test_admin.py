from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client

from models_registry import deployments, weights
from models_registry.models import Deployment, FusionWeights, ModelVersion, Slot
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
        "fusionweights/add/",
    ):
        assert admin.get(f"{ADMIN}/{path}").status_code == 200, path
    page = admin.get(f"{ADMIN}/modelversion/{version.pk}/change/").content.decode()
    assert version.artifacts["model"] in page
    assert "25.0% / 75.0%" in admin.get(f"{ADMIN}/fusionweights/").content.decode()


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
    if table != "fusionweights":
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


def test_new_weights_are_a_new_version_that_is_live(admin: Client) -> None:
    before = weights.change(weights.propose(6, 4), by=SYSTEM)
    data = {"ltr": "0.7", "conceptual": "0.3", "collection": "", "reason": "more learning"}
    assert admin.post(f"{ADMIN}/fusionweights/add/", data).status_code == 302
    live = Deployment.objects.get(ended_at=None)
    assert live.weights is not None
    assert (live.weights.ltr, live.weights.author, live.reason) == (0.7, "ada", "more learning")
    assert FusionWeights.objects.count() == 2
    assert FusionWeights.objects.get(pk=before.weights_id).ltr == 6


def test_older_weights_can_be_activated_again(admin: Client) -> None:
    first = weights.change(weights.propose(6, 4), by=SYSTEM).weights
    weights.change(weights.propose(7, 3), by=SYSTEM)
    admin.post(f"{ADMIN}/fusionweights/", activation(first, confirmed="yes", reason="back"))
    assert Deployment.objects.get(ended_at=None).weights == first


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ltr": "-1"}, "must not be negative"),
        ({"ltr": "0", "conceptual": "0"}, "must not be 0"),
        ({"ltr": "nan"}, "Enter a number"),
        ({"ltr": "x"}, "Enter a number"),
        ({"reason": ""}, "This field is required"),
        ({"collection": "nowhere"}, "There is no collection"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_in_the_form(admin: Client, changes: dict[str, str], told: str) -> None:
    data = {"ltr": "1", "conceptual": "1", "collection": "", "reason": "x"} | changes
    page = admin.post(f"{ADMIN}/fusionweights/add/", data)
    assert page.status_code == 200
    assert told in page.content.decode()
    assert not FusionWeights.objects.exists()


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
