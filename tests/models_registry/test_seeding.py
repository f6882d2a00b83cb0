from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from models_registry import deployments, seeding, weights
from models_registry.models import Deployment, FusionWeights, ModelKind, ModelVersion, Slot
from ops.contracts.principal import Principal
from ops.contracts.problems import InvalidRequest
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def no_seeders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "_seeders", {})


@pytest.fixture
def seeded(make_version: Callable[..., ModelVersion]) -> None:
    """One seeder that provides an embedder and a ranker."""

    def provide(report: seeding.StepReporter) -> Mapping[Slot, ModelVersion]:
        report("Providing models")
        return {
            Slot.EMBEDDER: make_version("encoder", b"onnx", ModelKind.EMBEDDER),
            Slot.LTR: make_version("ranker", b"trees"),
        }

    seeding.register_seeder("example", provide)


def test_it_gives_every_slot_its_first_deployment(seeded: None) -> None:
    lines: list[str] = []
    seeding.seed(lines.append)
    assert sorted(map(str, deployments.live())) == [
        "global/embedder/stable: encoder@1",
        "global/ltr/stable: ranker@1",
        f"global/weights/stable: v{FusionWeights.objects.get().version}: ltr 0.8, conceptual 0.2",
    ]
    assert lines == ["Providing models"]


def test_a_second_run_changes_nothing(seeded: None) -> None:
    seeding.seed(lambda line: None)
    before = list(Deployment.objects.values_list("id", "ended_at"))
    assert seeding.seed(lambda line: None) == []
    assert list(Deployment.objects.values_list("id", "ended_at")) == before
    assert ModelVersion.objects.count() == 2
    assert FusionWeights.objects.count() == 1


def test_it_leaves_an_operators_choice_alone(
    seeded: None, operator: Principal, make_version: Callable[..., ModelVersion]
) -> None:
    own = make_version("own", b"own trees")
    deployments.activate(Slot.LTR, own, by=operator)
    chosen = weights.change(weights.propose(0.9, 0.1), by=operator)
    seeding.seed(lambda line: None)
    assert deployments.live().get(slot=Slot.LTR).model_version == own
    assert deployments.live().get(slot=Slot.WEIGHTS) == chosen


def test_the_environment_gives_the_first_weights_only(settings: Any) -> None:
    settings.RAG_FUSION_LTR_WEIGHT, settings.RAG_FUSION_CONCEPTUAL_WEIGHT = 3.0, 1.0
    seeding.seed(lambda line: None)
    assert FusionWeights.objects.get().normalized == (0.75, 0.25)
    settings.RAG_FUSION_LTR_WEIGHT = 9.0
    seeding.seed(lambda line: None)
    assert FusionWeights.objects.get().ltr == 3.0


def test_weights_that_cannot_be_used_are_refused(settings: Any) -> None:
    settings.RAG_FUSION_LTR_WEIGHT = settings.RAG_FUSION_CONCEPTUAL_WEIGHT = 0.0
    with pytest.raises(InvalidRequest):
        seeding.seed(lambda line: None)
    assert not Deployment.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_processes_that_seed_together_leave_one_of_each(seeded: None, store: Path) -> None:
    lines: list[str] = []
    results = at_once(*[lambda: seeding.seed(lines.append)] * 3)
    assert sorted(map(len, results)) == [0, 0, 3]
    assert Deployment.objects.count() == 3
    assert FusionWeights.objects.count() == 1
    assert ModelVersion.objects.count() == 2
