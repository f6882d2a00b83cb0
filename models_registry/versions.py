"""Registering what can be deployed: models and their versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from django.contrib.postgres.expressions import ArraySubquery
from django.db import transaction
from django.db.models import Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import JSONObject

from models_registry import artifacts as artifact_store
from models_registry.models import Deployment, Model, ModelKind, ModelVersion, TrainingRun, VersionStatus
from ops.contracts.problems import Conflict, NotFound

REVISION_CHARACTERS = 100


def register_model(name: str, kind: ModelKind, provider: str, description: str = "") -> Model:
    """The model of that name, made when there is none; its description follows the caller's.

    Raises `Conflict` when the name is taken by a model of another kind or provider.
    """
    with transaction.atomic():
        model, _ = Model.objects.get_or_create(
            name=name, defaults={"kind": kind, "provider": provider, "description": description}
        )
        if (model.kind, model.provider) != (kind, provider):
            raise Conflict(f"The model '{name}' exists already: {model.kind} by {model.provider}.")
        if description and model.description != description:
            model.description = description
            model.save(update_fields=["description"])
    return model


def register_version(
    model: Model,
    artifacts: Mapping[str, str],
    parameters: Mapping[str, Any],
    metrics: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> ModelVersion:
    """A new version of ``model``, or its newest one when that has the same artifacts and parameters.

    ``artifacts`` maps a role to the sha256 of a stored artifact. Everything else must be plain JSON with finite
    numbers (else `ValueError`). Its lineage is read from ``provenance``: ``training_run`` (an id), ``datasets``
    (``[{"sha256": …}]``) and ``revision``. Raises `ArtifactMissingError`.
    """
    wanted_artifacts, wanted_parameters, origin = dict(artifacts), _plain(parameters), _plain(provenance)
    with transaction.atomic():
        # The model's row orders its writers, so that no number is given twice and none is left out.
        Model.objects.select_for_update().get(pk=model.pk)
        newest = ModelVersion.objects.filter(model=model).order_by("-number").first()
        if newest and newest.artifacts == wanted_artifacts and newest.parameters == wanted_parameters:
            return newest
        artifact_store.require(wanted_artifacts.values())
        return ModelVersion.objects.create(
            model=model,
            number=newest.number + 1 if newest else 1,
            artifacts=wanted_artifacts,
            parameters=wanted_parameters,
            metrics=_plain(metrics),
            provenance=origin,
            training_run=_training_run(origin.get("training_run")),
            dataset_sha256=_dataset_sha256(origin.get("datasets")),
            code_revision=str(origin.get("revision", ""))[:REVISION_CHARACTERS],
        )


def set_status(version: ModelVersion, status: VersionStatus, detail: str = "") -> None:
    """Note that a version can be used, or why it can't. What is live stays live."""
    version.status, version.status_detail = status, detail
    # By what the row says: a transaction that was undone may have left something else in memory.
    row = ModelVersion.objects.filter(pk=version.pk).exclude(status=status, status_detail=detail)
    row.update(status=status, status_detail=detail)


def find_version(label: str) -> ModelVersion:
    """The version that ``name@number`` names, or the newest of ``name``. Raises `NotFound`."""
    name, separator, number = label.rpartition("@")
    if not separator:
        name = label
    versions = ModelVersion.objects.filter(model__name=name).select_related("model").order_by("-number")
    if separator:
        # Digits of a length that the column can hold: anything else is simply not there.
        versions = versions.filter(number=int(number)) if number.isdecimal() and len(number) < 10 else versions.none()
    version = versions.first()
    if version is None:
        raise NotFound(f"There is no model version '{label}'. `manage.py registry list` shows what there is.")
    return version


def newest_or(labels: Iterable[str]) -> QuerySet[ModelVersion]:
    """The newest version of every model, and those of the ``name@number`` labels, with their models."""
    newest = ModelVersion.objects.filter(model=OuterRef("model")).order_by("-number").values("number")[:1]
    wanted = Q(number=Subquery(newest))
    for label in labels:
        name, _, number = label.rpartition("@")
        if number.isdecimal() and len(number) < 10:
            wanted |= Q(model__name=name, number=int(number))
    return ModelVersion.objects.select_related("model").filter(wanted).order_by("model__name", "-number")


def overview() -> QuerySet[Model]:
    """Every model with its ``newest_number`` and ``live``: a list of ``{number, scope, slot, role}``."""
    places = (
        Deployment.objects.filter(ended_at=None, model_version__model=OuterRef("pk"))
        .order_by("slot", "scope", "role")
        .values(json=JSONObject(number="model_version__number", scope="scope", slot="slot", role="role"))
    )
    models: QuerySet[Any] = Model.objects.all()
    annotated: QuerySet[Model] = models.annotate(newest_number=Max("versions__number"), live=ArraySubquery(places))
    # Said again, because grouping for the maximum drops the model's own ordering.
    return annotated.order_by("kind", "name")


def _training_run(run_id: object) -> TrainingRun | None:
    """The run of that id, if this installation knows it."""
    try:
        return TrainingRun.objects.filter(pk=UUID(str(run_id))).first()
    except ValueError:
        return None


def _dataset_sha256(datasets: object) -> str:
    """One hash for what was learned from: that of the one dataset, or of the sorted hashes of several."""
    listed = datasets if isinstance(datasets, list) else []
    hashes = sorted(str(dataset["sha256"]) for dataset in listed if isinstance(dataset, dict) and "sha256" in dataset)
    if len(hashes) == 1:
        return hashes[0][:64]
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest() if hashes else ""


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back from the database, so that comparing with a stored value is exact."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    return plain
