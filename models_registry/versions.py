"""Registering what can be deployed: models and their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.contrib.postgres.expressions import ArraySubquery
from django.db import transaction
from django.db.models import Max, OuterRef, QuerySet
from django.db.models.functions import JSONObject

from models_registry import artifacts as artifact_store
from models_registry.models import Deployment, Model, ModelKind, ModelVersion
from ops.contracts.problems import Conflict, NotFound


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
    numbers (else `ValueError`). Raises `ArtifactMissingError`.
    """
    wanted_artifacts, wanted_parameters = dict(artifacts), _plain(parameters)
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
            provenance=_plain(provenance),
        )


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


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As it will be read back from the database, so that comparing with a stored value is exact."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(value), allow_nan=False))
    return plain
