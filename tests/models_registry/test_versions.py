from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from models_registry import artifacts, versions
from models_registry.models import Model, ModelKind, ModelVersion
from ops.contracts.problems import Conflict, NotFound
from tests.models_registry.conftest import at_once

pytestmark = pytest.mark.django_db


@pytest.fixture
def model() -> Model:
    return versions.register_model("ranker", ModelKind.LTR, "lightgbm", "the default")


def test_it_registers_a_model_once_and_follows_its_description(model: Model) -> None:
    again = versions.register_model("ranker", ModelKind.LTR, "lightgbm", "better words")
    assert again == model
    assert Model.objects.get().description == "better words"
    versions.register_model("ranker", ModelKind.LTR, "lightgbm")
    assert Model.objects.get().description == "better words"


@pytest.mark.parametrize(("kind", "provider"), [(ModelKind.EMBEDDER, "lightgbm"), (ModelKind.LTR, "linear")])
def test_it_refuses_a_name_that_means_something_else(model: Model, kind: ModelKind, provider: str) -> None:
    with pytest.raises(Conflict, match="ltr by lightgbm"):
        versions.register_model("ranker", kind, provider)


def test_it_numbers_versions_from_one(model: Model, store: Path) -> None:
    numbers = [versions.register_version(model, {}, {"seed": seed}, {}, {}).number for seed in (7, 8, 9)]
    assert numbers == [1, 2, 3]


def test_it_returns_the_newest_version_when_nothing_changed(model: Model, store: Path) -> None:
    files = {"model": artifacts.put(b"trees", "model.txt").sha256}
    first = versions.register_version(model, files, {"leaves": (15, 31), "rate": 0.1}, {"ndcg@10": 0.4}, {})

    same = versions.register_version(model, files, {"rate": 0.1, "leaves": [15, 31]}, {"ndcg@10": 0.5}, {"at": "now"})
    assert same == first
    assert same.metrics == {"ndcg@10": 0.4}

    assert versions.register_version(model, files, {"rate": 0.2}, {}, {}).number == 2
    # Going back to what an older version had is a new version: numbers tell the order of events.
    assert versions.register_version(model, files, {"leaves": [15, 31], "rate": 0.1}, {}, {}).number == 3


def test_it_refuses_artifacts_that_are_not_stored(model: Model, store: Path) -> None:
    with pytest.raises(artifacts.ArtifactMissingError):
        versions.register_version(model, {"model": "ab" * 32}, {}, {}, {})
    assert not ModelVersion.objects.exists()


def test_it_refuses_numbers_that_json_does_not_know(model: Model, store: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        versions.register_version(model, {}, {"rate": float("nan")}, {}, {})


@pytest.mark.django_db(transaction=True)
def test_it_gives_every_concurrent_version_a_number_of_its_own(store: Path) -> None:
    model = versions.register_model("ranker", ModelKind.LTR, "lightgbm")

    def register(seed: int) -> Callable[[], ModelVersion]:
        return lambda: versions.register_version(model, {}, {"seed": seed}, {}, {})

    results = at_once(*[register(seed) for seed in range(6)])

    assert sorted(version.number for version in results) == [1, 2, 3, 4, 5, 6]


def test_it_finds_a_version_by_its_label(make_version: Callable[..., ModelVersion]) -> None:
    first, second = make_version(content=b"one"), make_version(content=b"two")
    assert versions.find_version("ranker@1") == first
    assert versions.find_version("ranker") == second


@pytest.mark.parametrize(
    "label", ["", "@", "ranker@", "ranker@0", "ranker@3", "ranker@x", "ranker@99999999999", "other"]
)
def test_it_says_that_a_label_names_nothing(make_version: Callable[..., ModelVersion], label: str) -> None:
    make_version()
    with pytest.raises(NotFound, match="registry list"):
        versions.find_version(label)
