"""One model version as a single file, which moves between installations.

The file is a ZIP archive of ``manifest.json`` and ``artifacts/<sha256>`` for each file. An archive is somebody else's
until it has been checked: nothing in it decides where anything is written, nothing is read beyond its declared size,
every file must have its hash and a format of `models_registry.formats`, and what is not in the manifest is refused.

ArchiveError    the archive can't be used; nothing of it is kept
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from models_registry import artifacts, versions
from models_registry.formats import FormatError, require_format
from models_registry.models import Artifact, ModelKind, ModelVersion, TrainingRun
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Forbidden, Unprocessable

EXPORT = declare_action("model_version.export", "A version was written as a file that can be moved elsewhere.")
IMPORT = declare_action("model_version.import", "A version came from another installation; it is live nowhere yet.")

FORMAT, FORMAT_VERSION = "zenglow-model-version", 1
SUFFIX = ".zenglow.zip"
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_FILES = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_PROVIDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROLE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COPY_BYTES = 1024 * 1024

DAMAGES = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    NotImplementedError,
    EOFError,
    RuntimeError,
    zlib.error,
    ValueError,
)
"""What `zipfile` raises for a damaged archive. RuntimeError: encrypted; NotImplementedError: an unknown compression."""


class ArchiveError(Unprocessable):
    """The archive can't be used. The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an archive says of itself, checked. ``files`` maps a role to ``(sha256, size in bytes, file name)``."""

    name: str
    kind: ModelKind
    provider: str
    description: str
    number: int
    parameters: Mapping[str, Any]
    metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    files: Mapping[str, tuple[str, int, str]]
    training_run: Mapping[str, Any] | None


def file_name(version: ModelVersion) -> str:
    """What an exported version's file is called."""
    return f"{version.model.name.replace('/', '--')}@{version.number}{SUFFIX}"


def export_version(version: ModelVersion, target: IO[bytes], *, by: Principal) -> None:
    """Write a version to ``target``. Raises `Forbidden`, `Unprocessable` when its files are elsewhere or damaged."""
    if not by.has_scope(Scope.REGISTRY_READ):
        raise Forbidden(f"'{by.name}' lacks the scope {Scope.REGISTRY_READ}.")
    if version.source and not version.artifacts:
        raise Unprocessable(f"{version} is kept at {version.source}: there is nothing here to export.")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps(_manifest_of(version), indent=1, ensure_ascii=False))
        for role, sha256 in sorted(version.artifacts.items()):
            try:
                path = artifacts.local_path(sha256)
            except artifacts.ArtifactError as error:
                raise Unprocessable(f"{version} can't be exported, its file '{role}' is not well. {error}") from error
            if f"artifacts/{sha256}" not in archive.namelist():
                archive.write(path, f"artifacts/{sha256}")
    audit.record(by, EXPORT, str(version))


def import_version(source: IO[bytes], *, by: Principal, name: str | None = None) -> tuple[ModelVersion, bool]:
    """The version in an archive, and whether it is new here; one that is here already is found again.

    It gets the next number of its model, which ``name`` may choose, and becomes live nowhere. Raises `ArchiveError`,
    `Forbidden`, `Conflict` when the name is another kind of model's, and `ArtifactError` when it can't be stored.
    """
    if not by.has_scope(Scope.REGISTRY_WRITE) or by.collections is not None:
        raise Forbidden(f"'{by.name}' may not import models: it takes {Scope.REGISTRY_WRITE} for all collections.")
    with _opened(source) as archive, tempfile.TemporaryDirectory(prefix="zenglow-import-") as folder:
        manifest = _read_manifest(archive)
        _check_members(archive, manifest)
        paths = {role: _extract(archive, role, manifest, Path(folder)) for role in manifest.files}
        stored = {role: artifacts.put(path, manifest.files[role][2]).sha256 for role, path in sorted(paths.items())}
    return _register(manifest, stored, name or manifest.name, by)


def _register(manifest: Manifest, stored: Mapping[str, str], name: str, by: Principal) -> tuple[ModelVersion, bool]:
    if not _NAME.fullmatch(name):
        raise ArchiveError(f"'{name[:128]}' can't be the name of a model.")
    with transaction.atomic():
        model = versions.register_model(name, manifest.kind, manifest.provider, manifest.description)
        known = ModelVersion.objects.filter(
            model=model, artifacts=dict(stored), parameters=dict(manifest.parameters)
        ).first()
        if known is not None:
            return known, False
        _keep_training_run(manifest.training_run)
        provenance = {**manifest.provenance, "imported": f"{manifest.name}@{manifest.number}"}
        version = versions.register_version(model, stored, manifest.parameters, manifest.metrics, provenance)
        audit.record(by, IMPORT, str(version), {"from": provenance["imported"], "artifacts": dict(stored)})
    return version, True


def _manifest_of(version: ModelVersion) -> dict[str, Any]:
    model, run = version.model, version.training_run
    known = {artifact.sha256: artifact for artifact in Artifact.objects.filter(sha256__in=version.artifacts.values())}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": {
            "name": model.name,
            "kind": model.kind,
            "provider": model.provider,
            "description": model.description,
        },
        "version": {
            "number": version.number,
            "created_at": version.created_at.isoformat(),
            "parameters": version.parameters,
            "metrics": version.metrics,
            "provenance": version.provenance,
        },
        "training_run": None if run is None else _run_facts(run),
        "artifacts": {
            role: {"sha256": sha256, "size_bytes": known[sha256].size_bytes, "filename": known[sha256].filename}
            for role, sha256 in version.artifacts.items()
        },
    }


def _run_facts(run: TrainingRun) -> dict[str, Any]:
    return {
        "id": str(run.pk),
        "recipe": run.recipe,
        "parameters": run.parameters,
        "datasets": run.datasets,
        "metrics": run.metrics,
        "code_revision": run.code_revision,
        "by": run.by,
        "started_at": run.started_at.isoformat(),
        "finished_at": run.finished_at.isoformat(),
    }


@contextmanager
def _opened(source: IO[bytes]) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as archive:
            yield archive
    except DAMAGES as error:
        raise ArchiveError(f"This is no archive of a model version, or a damaged one: {error}.") from error


def _read_manifest(archive: zipfile.ZipFile) -> Manifest:
    if any(member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} for member in archive.infolist()):
        raise ArchiveError("The archive is compressed in another way than ZIP's own: write it again.")
    if MANIFEST not in archive.namelist():
        raise ArchiveError(f"This is no archive of a model version: it has no {MANIFEST}.")
    with archive.open(MANIFEST) as member:
        content = member.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise ArchiveError(f"The manifest is larger than {MAX_MANIFEST_BYTES} bytes.")
    try:
        return _checked(json.loads(content.decode("utf-8"), parse_constant=_refuse_constant))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"The manifest can't be used: {type(error).__name__}: {str(error)[:200]}.") from error


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _checked(raw: Mapping[str, Any]) -> Manifest:
    """Raises what a manifest of another shape makes Python raise, and `ArchiveError` with a better word."""
    if raw["format"] != FORMAT:
        raise ArchiveError("This is no archive of a model version.")
    if raw["format_version"] != FORMAT_VERSION:
        raise ArchiveError(
            f"The archive has format version {raw['format_version']!r}, and this ZenGlow reads {FORMAT_VERSION}: "
            "upgrade, or export it with the older one."
        )
    _require_storable(raw)
    model, version = raw["model"], raw["version"]
    for field, pattern in (("name", _NAME), ("provider", _PROVIDER)):
        if not pattern.fullmatch(model[field]):
            raise ArchiveError(f"The archive's model has a {field} that can't be used: {model[field][:128]!r}.")
    files = {
        role: (entry["sha256"], int(entry["size_bytes"]), str(entry["filename"]))
        for role, entry in raw["artifacts"].items()
    }
    if len(files) > MAX_FILES:
        raise ArchiveError(f"The archive has {len(files)} files; at most {MAX_FILES} make a version.")
    for role, (sha256, size_bytes, _) in files.items():
        if not _ROLE.fullmatch(role) or not _SHA256.fullmatch(sha256) or size_bytes < 0:
            raise ArchiveError(f"The archive's file '{role[:64]}' is not described as a file is.")
        if size_bytes > settings.REGISTRY_ARTIFACT_MAX_BYTES:
            raise ArchiveError(
                f"The file '{role}' is larger than {settings.REGISTRY_ARTIFACT_MAX_BYTES} bytes, the limit of "
                "REGISTRY_ARTIFACT_MAX_BYTES."
            )
    return Manifest(
        name=model["name"],
        kind=ModelKind(model["kind"]),
        provider=model["provider"],
        description=str(model.get("description", "")),
        number=int(version["number"]),
        parameters=dict(version["parameters"]),
        metrics=dict(version["metrics"]),
        provenance=dict(version["provenance"]),
        files=files,
        training_run=None if raw.get("training_run") is None else _checked_run(raw["training_run"]),
    )


def _require_storable(value: object) -> None:
    """Raise `ValueError` for text that the database can't hold: NUL, and halves of surrogate pairs."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("a text holds NUL")
        value.encode("utf-8")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            _require_storable(name)
            _require_storable(inner)
    elif isinstance(value, list):
        for inner in value:
            _require_storable(inner)


def _checked_run(raw: Mapping[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = {"id": UUID(raw["id"]), "recipe": str(raw["recipe"])[:100], "by": str(raw["by"])[:200]}
    run |= {name: dict(raw[name]) for name in ("parameters", "metrics")}
    run |= {"datasets": list(raw["datasets"]), "code_revision": str(raw["code_revision"])[:100]}
    for name in ("started_at", "finished_at"):
        moment = datetime.fromisoformat(raw[name])
        run[name] = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return run


def _check_members(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Refuse an archive whose members are not exactly those that the manifest names, each once."""
    wanted = {MANIFEST, *(f"artifacts/{sha256}" for sha256, _, _ in manifest.files.values())}
    names = archive.namelist()
    strange = sorted(set(names) - wanted)
    if strange:
        raise ArchiveError(f"The archive holds what its manifest doesn't name: {strange[0][:200]!r}.")
    if len(names) != len(set(names)):
        raise ArchiveError("The archive holds a file twice.")
    missing = sorted(wanted - set(names))
    if missing:
        raise ArchiveError(f"The archive lacks {missing[0]}.")


def _extract(archive: zipfile.ZipFile, role: str, manifest: Manifest, folder: Path) -> Path:
    """A member as a file of ours, once its size, hash and format are those that it should have."""
    sha256, size_bytes, _ = manifest.files[role]
    path, count, digest = folder / f"{role}-{sha256}", 0, hashlib.sha256()
    with archive.open(f"artifacts/{sha256}") as member, path.open("wb") as file:
        while block := member.read(_COPY_BYTES):
            count += len(block)
            if count > size_bytes:
                raise ArchiveError(f"The file '{role}' is larger than the {size_bytes} bytes that the manifest says.")
            digest.update(block)
            file.write(block)
    if count != size_bytes or digest.hexdigest() != sha256:
        raise ArchiveError(f"The file '{role}' is not the one that the manifest names: its hash or size differs.")
    try:
        require_format(path, role, manifest.provider)
    except FormatError as error:
        raise ArchiveError(f"The file '{role}' is refused. {error}") from error
    return path


def _keep_training_run(facts: Mapping[str, Any] | None) -> None:
    """The run that made the version, unless it is known: what is known stays as it is."""
    if facts is not None:
        TrainingRun.objects.get_or_create(pk=facts["id"], defaults={k: v for k, v in facts.items() if k != "id"})
