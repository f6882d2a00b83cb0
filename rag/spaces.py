"""Embedding spaces and their embedders: from a model version in the registry to vectors, once per process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from models_registry.artifacts import local_path
from models_registry.formats import require_format
from models_registry.live import LiveModel, view
from models_registry.models import ModelVersion, Slot
from ops.contracts.problems import Unprocessable
from rag.models import EmbeddingSpace
from rag.pipeline.embed import Embedder, EmbeddingError, Encoder, Sharing, Space
from rag.pipeline.loaded import LoadedModels
from rag.pipeline.processors import own_processors
from rag.pipeline.query import fingerprint

IDENTITY = ("dimension", "max_tokens", "pooling", "normalize", "query_prompt", "document_prompt")
"""The parameters of an embedder version that decide, with its model file, which vectors are comparable."""

_spaces: dict[int, Space] = {}
_encoders: LoadedModels[Encoder] = LoadedModels("embedder", EmbeddingError)


def space_slug(model_sha256: str, parameters: Mapping[str, Any]) -> str:
    """The identity of a space: the same file with another prompt is another space."""
    return fingerprint({"model": model_sha256, **{name: parameters[name] for name in IDENTITY}})[:16]


def space_of(embedder: LiveModel) -> Space:
    """The space of an embedder version; its row is made when it is first needed."""
    found = _spaces.get(embedder.version_id)
    if found is None:
        found, is_new = _load_space(embedder)
        if not (is_new and connection.in_atomic_block):  # a transaction that fails would take the row back
            _spaces[embedder.version_id] = found
    return found


def embedder_for(collection_slug: str, *, indexing: bool = False) -> Embedder:
    """The live embedder of a collection, with the threads that querying or ``indexing`` may use."""
    return load_embedder(view.model(Slot.EMBEDDER, collection_slug), indexing=indexing)


def load_embedder(embedder: LiveModel, *, indexing: bool = False) -> Embedder:
    """The embedder of a version; its files are loaded once per process. Raises `EmbeddingError`."""
    return Embedder(space_of(embedder), _encoder_of(embedder, indexing=indexing))


class EmbedderLoader:
    """How the registry has embedders loaded before they answer."""

    def is_loaded(self, model: LiveModel) -> bool:
        return _encoders.has(_encoder_key(model, indexing=False))

    def load(self, model: LiveModel) -> None:
        _encoder_of(model, indexing=False).encode_query("warm")

    def unload(self, model: LiveModel) -> None:
        key = _encoder_key(model, indexing=False)
        # Another version may be the same files with other prompts.
        if not any(isinstance(live, LiveModel) and _is_encoder(live, key) for live in view.all()):
            _encoders.drop(model, key)


def _is_encoder(live: LiveModel, key: tuple[str, str, int, bool]) -> bool:
    return live.slot == Slot.EMBEDDER and _encoder_key(live, indexing=False) == key


def _encoder_key(embedder: LiveModel, *, indexing: bool) -> tuple[str, str, int, bool]:
    threads: int = settings.RAG_INDEX_THREADS if indexing else settings.RAG_EMBED_THREADS
    return embedder.artifacts["model"], embedder.artifacts["tokenizer"], threads, indexing


def _encoder_of(embedder: LiveModel, *, indexing: bool) -> Encoder:
    key = _encoder_key(embedder, indexing=indexing)
    model, tokenizer, threads, _ = key

    def load() -> Encoder:
        return Encoder(
            local_path(model),
            local_path(tokenizer),
            dimension=embedder.parameters["dimension"],
            max_tokens=embedder.parameters["max_tokens"],
            threads=threads,
            sharing=None if indexing else query_sharing(),
        )

    return _encoders.get(embedder, key, load)


def try_out(version: ModelVersion) -> None:
    """See that an embedder's files are whole and safe to load. Raises `Unprocessable`: the trial of its slot.

    They are not loaded: that takes memory twice, and each process loads them before it lets them answer.
    """
    from tokenizers import Tokenizer  # megabytes that processes without an embedder are spared

    try:
        missing = sorted({"model", "tokenizer"} - version.artifacts.keys()) or sorted(
            set(IDENTITY) - version.parameters.keys()
        )
        if missing:
            raise Unprocessable(f"{version} can't be used: it has no {', '.join(missing)}.")
        require_format(local_path(version.artifacts["model"]), "model", version.model.provider)
        Tokenizer.from_file(str(local_path(version.artifacts["tokenizer"])))
    except Unprocessable:
        raise
    except Exception as error:  # tokenizers raises bare ones
        raise Unprocessable(f"{version} can't be used: {error}") from error


def query_sharing() -> Sharing:
    """How this process's queries share their encoder, as the settings say."""
    passes = settings.RAG_EMBED_PASSES or max(own_processors() // settings.RAG_EMBED_THREADS, 1)
    return Sharing(passes, settings.RAG_EMBED_BATCH_MAX, settings.RAG_EMBED_BATCH_WAIT_MS)


def forget() -> None:
    """Drop everything that is loaded: for tests, and before a process forks."""
    _spaces.clear()
    _encoders.forget()


def _load_space(embedder: LiveModel) -> tuple[Space, bool]:
    """The space of a version, and whether its row was made just now."""
    parameters = embedder.parameters
    with transaction.atomic():
        row, is_new = EmbeddingSpace.objects.get_or_create(
            slug=space_slug(embedder.artifacts["model"], parameters),
            defaults={"model_name": embedder.name, "artifact_sha256": embedder.artifacts["model"]}
            | {name: parameters[name] for name in IDENTITY},
        )
    return space_from(row, embedder.label), is_new


def space_from(row: EmbeddingSpace, label: str = "") -> Space:
    """A stored space; without a label it goes by its model's name."""
    return Space(
        id=row.id,
        label=label or row.model_name,
        dimension=row.dimension,
        max_tokens=row.max_tokens,
        query_prompt=row.query_prompt,
        document_prompt=row.document_prompt,
    )
