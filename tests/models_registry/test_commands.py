from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from models_registry import artifacts, deployments, seeding, weights
from models_registry.models import Artifact, Deployment, FusionWeights, ModelKind, ModelVersion, Slot
from ops.contracts.principal import SYSTEM

pytestmark = pytest.mark.django_db

MakeVersion = Callable[..., ModelVersion]


def run(*arguments: str, **options: Any) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out, **options)
    return " ".join(re.sub(r"[┃┏┓┗┛━│┌┐└┘─├┤┼┬┴╇╈┡┩╡╞]", " ", out.getvalue()).split())


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as refusal:
        run(*arguments)
    assert refusal.value.returncode == 2
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_list_shows_models_and_where_they_are_live(make_version: MakeVersion, collections: set[str]) -> None:
    version = make_version()
    make_version(content=b"newer")
    make_version("encoder", b"onnx", ModelKind.EMBEDDER)
    deployments.activate(Slot.LTR, version, "papers", by=SYSTEM)
    assert "encoder embedder onnxruntime @1 ranker ltr lightgbm @2 @1 papers" in run("registry", "list")


def test_show_tells_everything_about_the_versions(make_version: MakeVersion) -> None:
    version = make_version()
    shown = run("registry", "show", "ranker")
    assert "ranker · ltr · lightgbm" in shown
    assert f"model {version.artifacts['model']} · 5 bytes" in shown
    assert "parameter content trees" in shown
    assert "no model 'nothing'" in refused("registry", "show", "nothing")


def test_activate_and_rollback_and_history(make_version: MakeVersion, collections: set[str]) -> None:
    make_version(content=b"one")
    make_version(content=b"two")
    assert run("registry", "promote", "ranker@1") == "ranker@1 is the ranker everywhere."
    assert run("registry", "promote", "ranker", reason="better") == "ranker@2 is the ranker everywhere."
    assert run("registry", "promote", "ranker@1", collection="papers") == "ranker@1 is the ranker in 'papers'."
    assert run("registry", "rollback", "ltr") == "ranker@1 is the ranker everywhere."
    assert run("registry", "rollback", "ltr", collection="papers") == "'papers' follows the global ranker again."

    history = run("registry", "history")
    assert history.index("global ltr ranker@1 system") < history.index("global ltr ranker@2 system better")
    assert "papers ltr ranker@1 system" in history
    assert "papers" not in run("registry", "history", "--slot", "weights")
    assert "global" not in run("registry", "history", collection="papers")


def test_deactivate_ends_an_override(make_version: MakeVersion, collections: set[str]) -> None:
    deployments.activate(Slot.LTR, make_version(), "papers", by=SYSTEM)
    told = run("registry", "deactivate", "ltr", "--collection", "papers")
    assert told == "'papers' follows the global ranker again."
    assert "has no ranker of its own" in refused("registry", "deactivate", "ltr", "--collection", "papers")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("promote", "nothing@1"), "no model version 'nothing@1'"),
        (("promote", "ranker@1", "--collection", "nowhere"), "no collection 'nowhere'"),
        (("rollback", "ltr"), "no earlier ranker"),
        (("history", "--collection", "nowhere"), "no collection 'nowhere'"),
    ],
)
def test_a_refusal_is_one_line_and_code_2(
    make_version: MakeVersion, collections: set[str], arguments: tuple[str, ...], told: str
) -> None:
    make_version()
    assert told in refused("registry", *arguments)
    assert not Deployment.objects.exists()


def test_a_damaged_file_is_refused_in_one_line(make_version: MakeVersion) -> None:
    artifacts.local_path(make_version().artifacts["model"]).write_bytes(b"damaged")
    assert "its file 'model' is not well" in refused("registry", "promote", "ranker")


def test_gc_lists_and_deletes(make_version: MakeVersion) -> None:
    make_version()
    artifacts.put(b"left over", "old.onnx")
    Artifact.objects.update(stored_at=timezone.now() - timedelta(days=1))
    assert run("registry", "gc", dry_run=True).endswith("1 files, 9 bytes: nothing deleted.")
    assert "old.onnx" in run("registry", "gc")
    assert run("registry", "gc") == "Every stored file is needed, or too new to tell."


def test_weights_are_shown_set_and_rolled_back(collections: set[str]) -> None:
    assert "manage.py seed" in refused("weights", "show")
    first = run("weights", "set", "3", "1", reason="start")
    assert "ltr 0.75, conceptual 0.25" in first
    assert first.endswith("UTC by system (start)")
    assert "for 'papers': ltr 0.5" in run("weights", "set", "1", "1", collection="papers")
    assert "ltr 0.9" in run("weights", "set", "0.9", "0.1")
    assert "ltr 0.75" in run("weights", "rollback")
    assert "ltr 0.5" in run("weights", "rollback", to=FusionWeights.objects.get(ltr=1).version)
    assert "for 'papers', from the global weights" in run("weights", "rollback", collection="papers")
    assert "ltr 0.5" in run("weights", "show")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("set", "0", "0"), "ltr must not be 0"),
        (("set", "nan", "1"), "ltr must be a finite number"),
        (("set", "1", "1", "--collection", "nowhere"), "no collection 'nowhere'"),
        (("rollback", "--to", "999999"), "no version 999999"),
        (("rollback",), "no earlier fusion weights"),
    ],
)
def test_bad_weights_are_refused_in_one_line(collections: set[str], arguments: tuple[str, ...], told: str) -> None:
    weights.change(weights.propose(0.6, 0.4), by=SYSTEM)
    assert told in refused("weights", *arguments)
    assert Deployment.objects.count() == 1


def test_seed_says_what_is_live_and_that_there_is_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, make_version: MakeVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    def provide(report: seeding.StepReporter) -> Mapping[Slot, ModelVersion]:
        report("Providing [a ranker]")
        return {Slot.LTR: make_version()}

    monkeypatch.setattr(seeding, "_seeders", {"example": provide})
    assert "Live now: ranker@1, v" in run("seed")
    assert "Providing [a ranker]" in capsys.readouterr().err
    assert run("seed") == "Everything was seeded already."


def test_seed_tells_why_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: seeding.StepReporter) -> Mapping[Slot, ModelVersion]:
        raise seeding.SeedingError("The embedder could not be exported.")

    monkeypatch.setattr(seeding, "_seeders", {"example": fail})
    with pytest.raises(CommandError, match="could not be exported"):
        run("seed")
