from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from models_registry import archives, artifacts, training, versions
from models_registry.models import Artifact, Model, ModelKind, ModelVersion, TrainingRun
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import Conflict, Forbidden, Unprocessable
from ops.models import AuditEvent

pytestmark = pytest.mark.django_db

TREES = b"tree\nversion=v4\n\nTree=0\nnum_leaves=1\n\nend of trees\n"
SHA256 = hashlib.sha256(TREES).hexdigest()

Manifest = dict[str, Any]


@pytest.fixture
def version(store: Path) -> ModelVersion:
    run = training.record_run(
        "rag.recipes.ltr",
        by=SYSTEM,
        started_at=timezone.now(),
        datasets=[{"collection": "papers", "sha256": "d" * 64}],
        parameters={"rounds": 40},
        metrics={},
        code_revision="abc123",
    )
    model = versions.register_model("teams/ranker", ModelKind.LTR, "lightgbm", "Trees")
    provenance = {"training_run": str(run.pk), "datasets": run.datasets, "revision": "abc123"}
    artifact = artifacts.put(TREES, "ranker.txt")
    return versions.register_version(model, {"model": artifact.sha256}, {"rounds": 40}, {"ndcg@10": 0.5}, provenance)


def exported(version: ModelVersion) -> io.BytesIO:
    target = io.BytesIO()
    archives.export_version(version, target, by=SYSTEM)
    target.seek(0)
    return target


def forget_everything(store: Path) -> None:
    """As an installation that never had any of it."""
    for table in (ModelVersion, Model, Artifact, TrainingRun):
        table.objects.all().delete()
    for path in (store / "artifacts").rglob("*"):
        if path.is_file():
            path.unlink()


def test_a_version_moves_with_its_files_figures_and_lineage(version: ModelVersion, store: Path) -> None:
    moved = exported(version)
    run_id = version.training_run_id
    forget_everything(store)

    arrived, is_new = archives.import_version(moved, by=SYSTEM)

    assert is_new
    assert str(arrived) == "teams/ranker@1"
    assert (arrived.model.kind, arrived.model.provider, arrived.model.description) == ("ltr", "lightgbm", "Trees")
    assert artifacts.local_path(arrived.artifacts["model"]).read_bytes() == TREES
    assert Artifact.objects.get().filename == "ranker.txt"
    assert (arrived.parameters, arrived.metrics) == ({"rounds": 40}, {"ndcg@10": 0.5})
    assert (arrived.dataset_sha256, arrived.code_revision) == ("d" * 64, "abc123")
    assert arrived.training_run is not None
    assert (arrived.training_run_id, arrived.training_run.recipe) == (run_id, "rag.recipes.ltr")
    assert arrived.provenance["imported"] == "teams/ranker@1"
    assert AuditEvent.objects.filter(action="model_version.import").count() == 1


def test_importing_what_is_here_changes_nothing(version: ModelVersion) -> None:
    archive = exported(version)
    newer = versions.register_version(version.model, version.artifacts, {"rounds": 80}, {}, {})
    assert archives.import_version(archive, by=SYSTEM) == (version, False)
    assert list(ModelVersion.objects.order_by("number")) == [version, newer]


def test_it_may_come_in_under_another_name(version: ModelVersion) -> None:
    arrived, is_new = archives.import_version(exported(version), by=SYSTEM, name="theirs")
    assert (str(arrived), is_new) == ("theirs@1", True)
    versions.register_model("encoder", ModelKind.EMBEDDER, "onnxruntime")
    with pytest.raises(Conflict, match="exists already"):
        archives.import_version(exported(version), by=SYSTEM, name="encoder")
    with pytest.raises(archives.ArchiveError, match="can't be the name"):
        archives.import_version(exported(version), by=SYSTEM, name="../x\n")


def test_a_damaged_version_is_not_exported(version: ModelVersion, store: Path) -> None:
    (store / "artifacts" / SHA256[:2] / SHA256).write_bytes(b"other")
    with pytest.raises(Unprocessable, match="not well"):
        exported(version)


def test_only_who_may_change_everything_imports(
    version: ModelVersion, reader: Principal, limited_operator: Principal, operator: Principal
) -> None:
    archive = exported(version)
    for stranger in (reader, limited_operator):
        with pytest.raises(Forbidden):
            archives.import_version(archive, by=stranger)
    archives.import_version(archive, by=operator)


# --- archives that somebody made to do harm ----


def manifest_of(version: ModelVersion) -> Manifest:
    with zipfile.ZipFile(exported(version)) as archive:
        manifest: Manifest = json.loads(archive.read("manifest.json"))
    return manifest


def archive_of(manifest: Manifest | str, **members: bytes) -> io.BytesIO:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", manifest if isinstance(manifest, str) else json.dumps(manifest))
        for name, content in members.items():
            archive.writestr(name, content)
    target.seek(0)
    return target


def assert_refused(archive: io.BytesIO, message: str, store: Path) -> None:
    before = set(ModelVersion.objects.all()), set(Artifact.objects.all())
    files = {path for path in store.rglob("*") if path.is_file()}
    with pytest.raises(archives.ArchiveError, match=message):
        archives.import_version(archive, by=SYSTEM)
    assert (set(ModelVersion.objects.all()), set(Artifact.objects.all())) == before
    assert {path for path in store.rglob("*") if path.is_file()} == files


MEMBER = f"artifacts/{SHA256}"


@pytest.mark.parametrize("name", ["../../evil", "/etc/cron.d/evil", "artifacts/../../evil", "artifacts\\evil", "other"])
def test_a_member_that_the_manifest_does_not_name_is_refused(version: ModelVersion, store: Path, name: str) -> None:
    archive = archive_of(manifest_of(version), **{MEMBER: TREES, name: b"evil"})
    assert_refused(archive, "doesn't name", store)


def test_wrong_hashes_and_sizes_are_refused(version: ModelVersion, store: Path) -> None:
    manifest = manifest_of(version)
    assert_refused(archive_of(manifest, **{MEMBER: TREES[:-1] + b"!"}), "hash or size differs", store)
    assert_refused(archive_of(manifest, **{MEMBER: TREES[:-1]}), "hash or size differs", store)
    assert_refused(archive_of(manifest), "lacks", store)


def test_a_bomb_is_read_no_further_than_its_declared_size(version: ModelVersion, store: Path) -> None:
    bomb = bytes(64 * 1024 * 1024)
    assert_refused(archive_of(manifest_of(version), **{MEMBER: bomb}), "larger than the", store)


def test_a_file_above_the_limit_is_refused_before_it_is_read(version: ModelVersion, store: Path, settings: Any) -> None:
    archive = exported(version)
    settings.REGISTRY_ARTIFACT_MAX_BYTES = 10
    assert_refused(archive, "REGISTRY_ARTIFACT_MAX_BYTES", store)


def test_a_large_manifest_is_not_read(store: Path) -> None:
    assert_refused(archive_of(" " * (archives.MAX_MANIFEST_BYTES + 1)), "manifest is larger", store)


def test_a_pickle_is_refused_whatever_it_is_called(version: ModelVersion, store: Path) -> None:
    pickle = b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94."
    sha256 = hashlib.sha256(pickle).hexdigest()
    manifest = manifest_of(version)
    manifest["artifacts"]["model"] |= {"sha256": sha256, "size_bytes": len(pickle)}
    assert_refused(archive_of(manifest, **{f"artifacts/{sha256}": pickle}), "could run code", store)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"format_version": 99},
        {"model": None},
        {"model": {"name": "../../x", "kind": "ltr", "provider": "lightgbm"}},
        {"model": {"name": "x" * 200, "kind": "ltr", "provider": "lightgbm"}},
        {"model": {"name": "x", "kind": "virus", "provider": "lightgbm"}},
        {"model": {"name": "x", "kind": "ltr", "provider": "a b"}},
        {"model": {"name": 5, "kind": "ltr", "provider": "lightgbm"}},
        {"version": []},
        {"version": {"number": "one", "parameters": {}, "metrics": {}, "provenance": {}}},
        {"version": {"number": 1, "parameters": {"a": "\0"}, "metrics": {}, "provenance": {}}},
        {"version": {"number": 1, "parameters": {"a": "\ud800"}, "metrics": {}, "provenance": {}}},
        {"artifacts": {"../model": {"sha256": SHA256, "size_bytes": 1, "filename": "x"}}},
        {"artifacts": {"model": {"sha256": "../../x", "size_bytes": 1, "filename": "x"}}},
        {"artifacts": {"model": {"sha256": SHA256, "size_bytes": -1, "filename": "x"}}},
        {"training_run": {"id": "none"}},
    ],
)
def test_a_manifest_of_another_shape_is_refused(version: ModelVersion, store: Path, change: Manifest) -> None:
    assert_refused(archive_of(manifest_of(version) | change, **{MEMBER: TREES}), ".", store)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format": NaN}', "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(store: Path, text: str) -> None:
    assert_refused(archive_of(text), "manifest can't be used", store)


@given(content=st.binary(max_size=300))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=50)
def test_any_bytes_are_refused(store: Path, content: bytes) -> None:
    with pytest.raises(archives.ArchiveError):
        archives.import_version(io.BytesIO(content), by=SYSTEM)


@given(place=st.integers(0, 2000), value=st.integers(0, 255))
@hypothesis_settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=100
)
def test_a_flipped_byte_never_brings_in_another_file(version: ModelVersion, place: int, value: int) -> None:
    content = bytearray(exported(version).getvalue())
    content[place % len(content)] = value
    try:
        arrived, _ = archives.import_version(io.BytesIO(bytes(content)), by=SYSTEM, name="flipped")
    except Unprocessable:
        return
    assert artifacts.local_path(arrived.artifacts["model"]).read_bytes() == TREES


def test_other_compressions_are_refused(version: ModelVersion, store: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", json.dumps(manifest_of(version)))
    assert_refused(target, "another way", store)


# --- the commands ----


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("registry", *arguments, stdout=out)
    return out.getvalue().strip()


def test_the_commands_write_and_read_one_file(version: ModelVersion, store: Path, tmp_path: Path) -> None:
    assert "teams/ranker@1 is in" in run("export", "teams/ranker", str(tmp_path))
    file = tmp_path / "teams--ranker@1.zenglow.zip"
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".teams")] == []
    assert run("import", str(file)) == "teams/ranker@1 is here already: nothing was changed."
    forget_everything(store)
    assert run("import", str(file), "--name", "theirs").startswith("theirs@1 is registered.")


def refused(*arguments: str) -> str:
    with pytest.raises(CommandError) as refusal:
        run(*arguments)
    assert refusal.value.returncode == 2
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_the_commands_refuse_in_one_line(make_version: Callable[..., ModelVersion], tmp_path: Path) -> None:
    assert "No such file" in refused("import", str(tmp_path / "none.zip"))
    (tmp_path / "text.zip").write_text("hello")
    assert "no archive" in refused("import", str(tmp_path / "text.zip"))
    assert "no model version" in refused("export", "nothing")
    make_version()
    assert "can't be written" in refused("export", "ranker", str(tmp_path / "nowhere" / "x.zip"))
