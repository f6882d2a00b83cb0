"""Embedding spaces and their embedders: from a model version in the registry to vectors, once per process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from models_registry.artifacts import local_path
from models_registry.live import LiveModel, view
from models_registry.models import Slot
from rag.models import EmbeddingSpace
from rag.pipeline.embed import Embedder, EmbeddingError, Encoder, Sharing, Space
from rag.pipeline.loaded import LoadedModels
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
    space = space_of(embedder)
    threads = settings.RAG_INDEX_THREADS if indexing else settings.RAG_EMBED_THREADS
    model, tokenizer = embedder.artifacts["model"], embedder.artifacts["tokenizer"]

    def load() -> Encoder:
        return Encoder(
            local_path(model),
            local_path(tokenizer),
            dimension=space.dimension,
            max_tokens=space.max_tokens,
            threads=threads,
            sharing=None if indexing else query_sharing(),
        )

    return Embedder(space, _encoders.get(embedder, (model, tokenizer, threads, indexing), load))


def query_sharing() -> Sharing:
    """How this process's queries share their encoder, as the settings say."""
    passes = settings.RAG_EMBED_PASSES or max((os.cpu_count() or 1) // (2 * settings.RAG_EMBED_THREADS), 1)
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
