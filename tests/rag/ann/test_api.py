"""The configurations over HTTP and in the admin."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from models_registry.live import view
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from rag.ann import configs
from rag.models import AnnConfig, AnnState
from tests.rag.ann.support import Subject, subject

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models")]


@pytest.fixture(scope="module")
def bees(module_transaction: None) -> Subject:
    view.expire()
    return subject("bees", 6)


@pytest.fixture
def administrator(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ada"))
    return client


def client_of(*collections: str) -> Client:
    """A client with a key for some collections."""
    key = keys.create_key("test", [Scope.REGISTRY_READ], collections=collections, actor=SYSTEM).text
    return Client(headers={"Authorization": f"Bearer {key}"})


@pytest.mark.usefixtures("keys_needed")
class TestApi:
    @pytest.fixture
    def keys_needed(self, settings: Settings) -> None:
        settings.ENABLE_API_KEYS = True

    def test_it_lists_what_was_measured_newest_first(self, bees: Subject) -> None:
        one = configs.build(configs.propose(*bees, {"m": 8}, by=SYSTEM, reason="small"))
        other = configs.propose(*bees, {"strategy": "exact"}, by=SYSTEM)
        configs.activate(other, by=SYSTEM)
        found = client_of("bees").get("/rag/collections/bees/ann").json()["results"]
        assert [row["id"] for row in found] == [other.pk, one.pk]
        assert [row["state"] for row in found] == ["live", "ready"]
        assert found[1]["m"] == 8
        assert found[1]["reason"] == "small"
        assert found[1]["size_bytes"] == one.size_bytes
        assert found[1]["progress"] is None

    def test_nobody_learns_of_a_collection_that_is_not_theirs(self, bees: Subject) -> None:
        answer = client_of("cakes").get("/rag/collections/bees/ann")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is no collection 'bees'."


class TestAdmin:
    def test_adding_one_has_it_built_in_the_background(
        self, administrator: Client, bees: Subject, django_capture_on_commit_callbacks
    ) -> None:
        form = {field: getattr(AnnConfig(), field) for field in configs.SETTINGS}
        with django_capture_on_commit_callbacks() as begun:
            answer = administrator.post(
                reverse("admin:rag_annconfig_add"), form | {"collection": bees[0].pk, "reason": "slow", "m": 12}
            )
        assert answer.status_code == 302
        assert len(begun) >= 1
        config = AnnConfig.objects.get()
        assert (config.state, config.m, config.by, config.reason) == (AnnState.BUILDING, 12, "ada", "slow")
        assert config.space == bees[1]

    def test_bad_settings_are_refused_at_their_field(self, administrator: Client, bees: Subject) -> None:
        form = {field: getattr(AnnConfig(), field) for field in configs.SETTINGS}
        answer = administrator.post(reverse("admin:rag_annconfig_add"), form | {"collection": bees[0].pk, "m": 90})
        assert "At least twice m" in answer.content.decode()
        assert not AnnConfig.objects.exists()

    def act(self, administrator: Client, action: str, config: AnnConfig, **given: str) -> str:
        return administrator.post(
            reverse("admin:rag_annconfig_changelist"),
            {"action": action, "_selected_action": config.pk, **given},
            follow=True,
        ).content.decode()

    def test_putting_live_is_refused_below_the_floor_unless_forced(self, administrator: Client, bees: Subject) -> None:
        config = configs.build(configs.propose(*bees, {}, by=SYSTEM))
        assert "has not been measured" in self.act(administrator, "activate", config)
        assert configs.live(bees[0].id, bees[1].id) is None
        assert "is live" in self.act(administrator, "activate", config, force="on", reason="a try")
        assert configs.live(bees[0].id, bees[1].id) == config
        assert "put another one live first" in self.act(administrator, "drop", config)

    def test_a_row_shows_everything_and_changes_nothing(self, administrator: Client, bees: Subject) -> None:
        config = configs.build(configs.propose(*bees, {}, by=SYSTEM))
        page = administrator.get(reverse("admin:rag_annconfig_change", args=[config.pk])).content.decode()
        assert config.index_name in page
        assert 'name="_save"' not in page
