"""Bringing in an embedder: any sentence-transformers model becomes a version that ONNX Runtime serves.

The model is exported once, in a child process, and its files are kept as artifacts; the folder it came from is not
needed again. Putting it live is another step (`rag.reembedding`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from models_registry import artifacts
from models_registry.live import not_deployed
from models_registry.models import ModelKind, ModelVersion, Slot
from models_registry.seeding import SeedingError
from models_registry.versions import register_model, register_version
from ops.contracts.env import child_environment
from ops.contracts.problems import Conflict
from rag.recipes.model_folder import ModelFolder, ModelFolderError, Pooling, Prompts, inspect_folder
from rag.spaces import space_of

PROVIDER = "onnxruntime"


class ExportFailedError(SeedingError):
    """The embedder could not be exported. The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What `export_embedder` wrote. ``agreement``: smallest cosine between a served vector and the original's."""

    folder: Path
    agreement: float


def find_folder(path_or_name: str) -> Path:
    """A folder, or the copy of a model of that name in the local cache of ``huggingface_hub``; no network is used.

    Raises `ExportFailedError`.
    """
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path.resolve()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path_or_name, local_files_only=True))
    except HFValidationError as error:
        raise ExportFailedError(f"'{path_or_name}' is no folder, and no name that a model can have.") from error
    except LocalEntryNotFoundError as error:
        raise ExportFailedError(
            f"'{path_or_name}' is neither a folder nor a model in this machine's cache. Nothing is downloaded here: "
            f"run `hf download {path_or_name}` where there is a network, and name the folder that it prints."
        ) from error


def read_folder(
    path_or_name: str, name: str, *, query_prompt: str | None = None, document_prompt: str | None = None
) -> ModelFolder:
    """A model's folder with the prompts that count: those given, else the model's own, else its family's.

    Raises `ExportFailedError`.
    """
    try:
        folder = inspect_folder(find_folder(path_or_name), name)
    except ModelFolderError as error:
        raise ExportFailedError(str(error)) from error
    if query_prompt is None and document_prompt is None:
        return folder
    found = folder.prompts
    return replace(
        folder,
        prompts=Prompts(
            found.query if query_prompt is None else query_prompt,
            found.document if document_prompt is None else document_prompt,
            "the command",
        ),
    )


def add_embedder(name: str, folder: ModelFolder, pooling: Pooling | None = None) -> ModelVersion:
    """Export and register a model: a new version of ``name``, or its newest when that is the same.

    Raises `ExportFailedError`, and `Conflict` when ``name`` is another kind of model or has vectors of another length.
    """
    with tempfile.TemporaryDirectory(prefix="zenglow-export-") as temporary:
        exported = export_embedder(folder, Path(temporary), pooling)
        return register_embedder(name, exported.folder, str(folder.path), agreement=exported.agreement)


def export_embedder(folder: ModelFolder, output_folder: Path, pooling: Pooling | None = None) -> Exported:
    """Export a model in a child process, so that torch's memory is given back. Raises `ExportFailedError`."""
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "rag.recipes.onnx_export", str(folder.path), str(output_folder)),
            f"--pooling={pooling or ''}",
            f"--query-prompt={folder.prompts.query}",
            f"--document-prompt={folder.prompts.document}",
        ],
        env=child_environment(without_secrets=True, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1"),
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode != 0:
        last_line = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        raise ExportFailedError(f"The embedder in {folder.path} could not be exported: {last_line}")
    return Exported(output_folder, float(finished.stdout.split()[-1]))


def register_embedder(name: str, exported: Path, origin: str, *, agreement: float | None = None) -> ModelVersion:
    """Register what `export_embedder` wrote as a version of ``name``, with its space.

    Raises `Conflict` when an earlier version has vectors of another length: that is another model, not a newer one.
    """
    parameters = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    newest = ModelVersion.objects.filter(model__name=name).order_by("-number").first()
    if newest is not None and newest.parameters.get("dimension", parameters["dimension"]) != parameters["dimension"]:
        raise Conflict(
            f"{newest} has vectors of {newest.parameters['dimension']} numbers, this model of "
            f"{parameters['dimension']}: it is another model, so give it another --name."
        )
    version = register_version(
        register_model(name, ModelKind.EMBEDDER, PROVIDER),
        {
            "model": artifacts.put(exported / "model.onnx", f"{name}.onnx").sha256,
            "tokenizer": artifacts.put(exported / "tokenizer.json", f"{name}-tokenizer.json").sha256,
        },
        parameters,
        metrics={},
        provenance={"origin": origin, "export": "rag.recipes.onnx_export"}
        | ({} if agreement is None else {"agreement": agreement}),
    )
    space_of(not_deployed(Slot.EMBEDDER, version))
    return version
