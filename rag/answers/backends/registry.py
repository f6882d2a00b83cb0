"""From a model's reference to the backend that serves it: ``extractive``, ``ollama/<name>``, ``openai/<name>``."""

from __future__ import annotations

from rag.answers.backends.base import Backend, BackendRefusedError
from rag.answers.backends.extractive import ExtractiveBackend
from rag.answers.contracts import EXTRACTIVE

_extractive = ExtractiveBackend()


def backend_of(model: str) -> Backend:
    """Raises `BackendRefusedError` for a server that isn't configured."""
    name = model.partition("/")[0]
    if name == EXTRACTIVE:
        return _extractive
    raise BackendRefusedError(f"There is no model server for '{name}'.")


def call_label(model: str) -> str:
    """The name under which the registry's figures keep a model: one version, as servers tell no number."""
    return model
