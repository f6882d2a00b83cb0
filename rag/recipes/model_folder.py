"""What a sentence-transformers folder says of itself, read from its JSON files alone: no model is loaded.

Weights are taken from safetensors only. A pickle (``pytorch_model.bin``) and a model that brings code of its own could
run anything on this machine, so both are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
TRUSTED_MODULES = "sentence_transformers."

QUERY_PROMPTS = ("query", "search_query", "retrieval.query", "s2p_query", "web_search_query")
DOCUMENT_PROMPTS = ("document", "passage", "search_document", "retrieval.passage", "corpus")
"""The names under which models keep their prompts; the first that is there counts."""


class ModelFolderError(Exception):
    """The folder holds no model that can be used. The message is one sentence for an operator."""


class Pooling(StrEnum):
    """How a text's vector is made of its tokens' vectors."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is put before a query and before a document. ``origin`` says who says so."""

    query: str = ""
    document: str = ""
    origin: str = "none"


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model that can be exported. ``base`` is what it was made from, as its configuration names it."""

    path: Path
    base: str
    prompts: Prompts


_BGE_ENGLISH = "Represent this sentence for searching relevant passages: "
_BGE_CHINESE = "为这个句子生成表示以用于检索相关文章："
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "

FAMILIES: tuple[tuple[str, str, str, str], ...] = (
    # Family, pattern of its names, query prompt, document prompt: as the family's model cards say. The first counts.
    ("bge-zh", r"bge-(small|base|large)-zh", _BGE_CHINESE, ""),
    ("bge-en", r"bge-(small|base|large)-en", _BGE_ENGLISH, ""),
    ("e5-instruct", r"e5-[a-z0-9-]*instruct", _INSTRUCT, ""),
    ("e5", r"e5-(small|base|large)", "query: ", "passage: "),
    ("gte", r"gte-(small|base|large|tiny|multilingual)", "", ""),
    ("arctic-embed", r"snowflake-arctic-embed", _BGE_ENGLISH, ""),
    ("mxbai", r"mxbai-embed", _BGE_ENGLISH, ""),
    ("nomic", r"nomic-embed-text", "search_query: ", "search_document: "),
)


def inspect_folder(path: Path, name: str) -> ModelFolder:
    """Read what a folder holds. ``name`` helps to tell its family. Raises `ModelFolderError`."""
    if not path.is_dir():
        raise ModelFolderError(f"{path} is not a folder.")
    modules = _json(path / "modules.json")
    if not modules and not (path / "config.json").is_file():
        raise ModelFolderError(f"{path} holds no sentence-transformers model (no modules.json, no config.json).")
    module_folders = {path}
    for module in modules if isinstance(modules, list) else []:
        kind = str(module.get("type", ""))
        if not kind.startswith(TRUSTED_MODULES):
            raise ModelFolderError(f"{path} needs code of its own ({kind}), which is not run.")
        module_folders.add(path / str(module.get("path", "")))
    for folder in sorted(module_folders):
        _require_safe_weights(folder, is_transformer=(folder / "tokenizer_config.json").exists() or folder == path)
        if "auto_map" in _mapping(folder / "config.json"):
            raise ModelFolderError(f"{path} needs code of its own (auto_map in its config.json), which is not run.")
    base = str(_mapping(path / "config.json").get("_name_or_path", ""))
    own = own_prompts(_mapping(path / "config_sentence_transformers.json"))
    return ModelFolder(path, base, own or family_prompts(name, path.name, base))


def own_prompts(configuration: Mapping[str, Any]) -> Prompts | None:
    """The prompts in a ``config_sentence_transformers.json``; None when it has none (the library writes empty ones)."""
    prompts = configuration.get("prompts")
    if not isinstance(prompts, dict) or not any(prompts.values()):
        return None
    default = prompts.get(configuration.get("default_prompt_name") or "") or ""

    def first(names: tuple[str, ...]) -> str:
        return str(next((prompts[name] or "" for name in names if name in prompts), default))

    found = Prompts(first(QUERY_PROMPTS), first(DOCUMENT_PROMPTS), "the model's own configuration")
    return found if found.query or found.document else None


def family_prompts(*names: str) -> Prompts:
    """The prompts of the family that one of the names belongs to; none for MiniLM, MPNet and those unknown here."""
    for family, pattern, query, document in FAMILIES:
        if any(re.search(rf"(?<![a-z0-9]){pattern}", name.lower()) for name in names):
            return Prompts(query, document, f"the family {family}")
    return Prompts()


def _require_safe_weights(folder: Path, *, is_transformer: bool) -> None:
    files = [entry for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
    if any(entry.suffix == ".safetensors" for entry in files):
        return
    pickles = sorted(entry.name for entry in files if entry.suffix in PICKLES)
    if pickles:
        raise ModelFolderError(
            f"{folder} has its weights only as a pickle ({pickles[0]}), which can run code: "
            "take the model's safetensors version, or convert it on a machine that you can lose."
        )
    if is_transformer and (folder / "config.json").is_file():
        raise ModelFolderError(f"{folder} holds no weights: model.safetensors is missing.")


def _mapping(path: Path) -> dict[str, Any]:
    found = _json(path)
    return found if isinstance(found, dict) else {}


def _json(path: Path) -> Any:
    """The content of a JSON file; None where there is none. Raises `ModelFolderError`."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path} can't be read: {error}.") from error
