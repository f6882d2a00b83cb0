"""Models in a folder: each kind is known by the files that its own tools write."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models_registry.discovery.types import Found, SourceError
from models_registry.formats import FormatError, require_format
from models_registry.models import ModelKind

MAX_DEPTH = 6
MAX_FOLDERS = 20_000
MAX_DESCRIPTION_BYTES = 4 * 1024 * 1024
"""Of the JSON beside a model; a vocabulary is not read."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder and what lies below it, to a depth of `MAX_DEPTH`. Links that lead out of it are not followed."""

    path: Path

    @property
    def label(self) -> str:
        return f"folder {self.path}"

    def look(self) -> Sequence[Found]:
        if not self.path.is_dir():
            raise SourceError(f"{self.path} is no folder that can be read.")
        found: dict[str, Found] = {}
        for folder, files in _folders(self.path):
            for one in _models_of(folder, files, self.path):
                found.setdefault(one.name, one)
        return [found[name] for name in sorted(found)]

    def running(self) -> None:
        return None


def _folders(root: Path) -> Iterator[tuple[Path, frozenset[str]]]:
    """Every folder below ``root`` with the names of its files. A model's own subfolders are part of it."""
    for count, (name, subfolders, files) in enumerate(os.walk(root)):
        if count >= MAX_FOLDERS:
            raise SourceError(f"{root} holds more than {MAX_FOLDERS} folders: name the one that holds the models.")
        folder, names = Path(name), frozenset(files)
        subfolders[:] = sorted(one for one in subfolders if not one.startswith("."))
        if len(folder.relative_to(root).parts) >= MAX_DEPTH or "modules.json" in names:
            subfolders.clear()
        yield folder, names


def _models_of(folder: Path, files: frozenset[str], root: Path) -> Iterator[Found]:
    if "modules.json" in files:
        yield _sentence_transformer(folder, files, root)
    elif {"model.bin", "config.json"} <= files and files & {"vocabulary.json", "vocabulary.txt", "tokenizer.json"}:
        yield _whisper(folder, files, root, "faster-whisper")
    elif "config.json" in files and _described(folder / "config.json").get("model_type") == "whisper":
        yield _whisper(folder, files, root, "transformers")
    for name in sorted(files):
        if name.endswith(".onnx.json") and name.removesuffix(".json") in files:
            yield from _piper(folder, name, root)
        elif name.endswith(".json"):
            yield from _ranker(folder, name, files)


def _sentence_transformer(folder: Path, files: frozenset[str], root: Path) -> Found:
    config = _described(folder / "config.json")
    return Found(
        name=_name(folder, root),
        kind=ModelKind.EMBEDDER,
        provider="sentence-transformers",
        digest=_digest(folder, files),
        parameters={"location": str(folder)}
        | {name: config[name] for name in ("model_type", "hidden_size") if isinstance(config.get(name), str | int)},
        description="Not exported yet: `manage.py embedder add` makes a version that can be live.",
    )


def _whisper(folder: Path, files: frozenset[str], root: Path, provider: str) -> Found:
    return Found(_name(folder, root), ModelKind.STT, provider, _digest(folder, files), {"location": str(folder)})


def _piper(folder: Path, config_name: str, root: Path) -> Iterator[Found]:
    """https://github.com/rhasspy/piper: ``VOICE.onnx`` with ``VOICE.onnx.json``, which has audio and phoneme fields."""
    config = _described(folder / config_name)
    audio = config.get("audio")
    if not isinstance(audio, dict) or "phoneme_id_map" not in config:
        return
    model = config_name.removesuffix(".json")
    language = config.get("language")
    code = language.get("code") if isinstance(language, dict) else None
    facts = {"sample_rate_hz": audio.get("sample_rate"), "quality": audio.get("quality"), "language": code}
    yield Found(
        name=_limited(f"piper/{model.removesuffix('.onnx')}"),
        kind=ModelKind.TTS,
        provider="piper",
        digest=_digest(folder, frozenset({model, config_name})),
        parameters={"location": str(folder / model)}
        | {name: value for name, value in facts.items() if isinstance(value, str | int)},
    )


def _ranker(folder: Path, name: str, files: frozenset[str]) -> Iterator[Found]:
    """What `manage.py train --output` writes: a model file beside the JSON that says what it is."""
    sidecar = _described(folder / name)
    file, kind = sidecar.get("file"), sidecar.get("kind")
    if not isinstance(file, str) or file not in files or kind not in {"lightgbm", "linear"}:
        return
    try:
        require_format(folder / file, "model", kind)
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    except (FormatError, OSError) as error:
        fault = f"{folder / file} is described as a ranker and is none. {error}"
        yield Found(_limited(name), ModelKind.LTR, kind, "", fault=fault)
        return
    yield Found(
        name=_limited(name.removesuffix(".json")),
        kind=ModelKind.LTR,
        provider=kind,
        digest=digest,
        parameters={one: sidecar[one] for one in ("feature_schema_version", "fusion_weights") if one in sidecar},
        metrics=_mapping(sidecar.get("metrics")),
        provenance=_mapping(sidecar.get("provenance")),
        files={"model": folder / file},
        description=str(sidecar.get("description", "")),
    )


def _name(folder: Path, root: Path) -> str:
    """By the place below the root; Hugging Face's cache keeps a model's name two folders up, as ``models--A--B``."""
    parts = folder.relative_to(root).parts or (root.name,)
    for part in parts:
        if part.startswith("models--"):
            return _limited(part.removeprefix("models--").replace("--", "/"))
    return _limited("/".join(parts))


def _limited(name: str) -> str:
    cleaned = "".join(character if character.isprintable() and character != "@" else "-" for character in name)
    return cleaned.encode("utf-8", "replace").decode()[-128:]


def _digest(folder: Path, files: frozenset[str]) -> str:
    """Of names, sizes and the content of what is small: hashing gigabytes at each look would take minutes."""
    digest = hashlib.sha256()
    for name in sorted(files):
        path = folder / name
        try:
            size_bytes = path.stat().st_size
            digest.update(f"{name}\0{size_bytes}\0".encode("utf-8", "surrogateescape"))
            if size_bytes <= MAX_DESCRIPTION_BYTES:
                digest.update(path.read_bytes())
        except OSError as error:
            raise SourceError(f"{path} can't be read: {error.strerror}.") from error
    return digest.hexdigest()


def _described(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when it is none, or too large for a description."""
    try:
        if path.stat().st_size > MAX_DESCRIPTION_BYTES:
            return {}
        return _mapping(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
