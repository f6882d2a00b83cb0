"""Bringing a model of speech into the registry: from a folder, or from the local cache of the Hugging Face Hub.

ModelFilesError     there is no such model, or it is none that can be used. The message is one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_registry import artifacts
from models_registry.models import ModelKind, ModelVersion
from models_registry.versions import register_model, register_version
from voice.catalogue import KNOWN
from voice.engines import piper, whisper
from voice.engines.contracts import EngineMissingError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ModelFilesError(Exception):
    """The message is one sentence for an operator."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model on this machine, with its files by role."""

    name: str
    kind: ModelKind
    provider: str
    files: Mapping[str, Path]


def look(path_or_name: str) -> Found:
    """A Whisper folder, a Piper voice (its ``.onnx``, or a folder with one), or the name of a cached model.

    Raises `ModelFilesError`.
    """
    path = Path(path_or_name)
    if path.is_dir():
        return _of_folder(path)
    if path.suffix == ".onnx" and path.is_file():
        return _of_voice(path)
    known = KNOWN.get(path_or_name) or KNOWN.get(f"whisper-{path_or_name}")
    repository = known.repository if known else path_or_name
    if known is not None and known.provider == piper.NAME:
        raise ModelFilesError(f"{known.name} is not here: manage.py voices fetch {known.name}.")
    found = _of_folder(_cached(repository, path_or_name))
    return Found(known.name if known else found.name, found.kind, found.provider, found.files)


def register(
    found: Found, name: str, parameters: Mapping[str, Any], provenance: Mapping[str, Any], description: str = ""
) -> ModelVersion:
    """Store the files and register a version of them. Raises `ModelFilesError`, `Conflict` and `ArtifactError`."""
    if not NAME.fullmatch(name):
        raise ModelFilesError(f"'{name}' can't be a model's name: give one with --name.")
    unknown = set(parameters) - set(whisper.PARAMETERS if found.provider == whisper.NAME else ())
    if unknown:
        raise ModelFilesError(f"{found.provider} has no parameter '{sorted(unknown)[0]}'.")
    if found.provider == piper.NAME:
        try:
            piper.read_config(found.files["config"])
        except EngineMissingError as error:
            raise ModelFilesError(str(error)) from error
    model = register_model(name, found.kind, found.provider, description)
    stored = {role: artifacts.put(path, path.name).sha256 for role, path in sorted(found.files.items())}
    return register_version(model, stored, parameters, {}, provenance)


def _of_folder(folder: Path) -> Found:
    files = {role: folder / name for role, name in whisper.FILES.items() if (folder / name).is_file()}
    if "model" in files:
        missing = [whisper.FILES[role] for role in whisper.NEEDED if role not in files]
        if missing:
            raise ModelFilesError(f"The Whisper model in {folder} lacks {', '.join(missing)}.")
        return Found(folder.name, ModelKind.STT, whisper.NAME, files)
    voices = sorted(folder.glob("*.onnx"))
    if len(voices) == 1:
        return _of_voice(voices[0])
    if voices:
        raise ModelFilesError(f"{folder} holds {len(voices)} voices: name one of its .onnx files.")
    raise ModelFilesError(f"{folder} holds neither a Whisper model (model.bin) nor a Piper voice (.onnx).")


def _of_voice(path: Path) -> Found:
    config = path.with_name(f"{path.name}.json")
    if not config.is_file():
        raise ModelFilesError(f"{config.name} is not beside {path.name}: a voice needs both.")
    return Found(path.stem, ModelKind.TTS, piper.NAME, {"model": path, "config": config})


def _cached(repository: str, name: str) -> Path:
    # It reads its settings when it is imported, and most commands need none of them.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise ModelFilesError(
            f"'{name}' is no folder, no .onnx file and no cached model: manage.py voices fetch {name}, or see "
            "manage.py voices list."
        ) from error
