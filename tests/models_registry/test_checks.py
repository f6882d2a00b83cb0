from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.checks import run_checks

from models_registry import artifacts, deployments, weights
from models_registry.models import ModelKind, ModelVersion, Slot
from ops.contracts.principal import SYSTEM


def found(**options: Any) -> dict[str, str]:
    return {
        str(message.id): message.msg for message in run_checks(**options) if str(message.id).startswith("registry.")
    }


@pytest.mark.parametrize(("ltr", "conceptual"), [(0.0, 0.0), (float("inf"), 1.0), (-1.0, 1.0)])
def test_e001_first_weights_that_cannot_be_used(settings: Any, ltr: float, conceptual: float) -> None:
    settings.RAG_FUSION_LTR_WEIGHT, settings.RAG_FUSION_CONCEPTUAL_WEIGHT = ltr, conceptual
    assert "the ltr weight" in found()["registry.E001"]


def test_the_declared_defaults_pass() -> None:
    assert found() == {}


@pytest.mark.django_db
def test_w002_nothing_is_live() -> None:
    assert "registry.W002" in found(databases=["default"])
    assert found() == {}


@pytest.mark.django_db
def test_w003_a_live_file_is_missing(make_version: Callable[..., ModelVersion]) -> None:
    ranker = make_version()
    deployments.activate(Slot.LTR, ranker, by=SYSTEM)
    deployments.activate(Slot.EMBEDDER, make_version("encoder", b"onnx", ModelKind.EMBEDDER), by=SYSTEM)
    weights.change(weights.propose(1, 1), by=SYSTEM)
    assert found(databases=["default"]) == {}

    artifacts.local_path(ranker.artifacts["model"]).unlink()
    assert "ranker@1 is live, but its file 'model'" in found(databases=["default"])["registry.W003"]
