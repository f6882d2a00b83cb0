"""From a model's reference to the backend that serves it: ``extractive``, ``ollama/<name>``, ``openai/<name>``.

Servers are those whose models the registry lists (``REGISTRY_OLLAMA_URLS``, ``REGISTRY_OPENAI_URLS``): nobody but the
operator says where they are. Of several of a kind the first that is not left alone is asked.
"""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from rag.answers.backends.base import Backend, BackendRefusedError
from rag.answers.backends.extractive import ExtractiveBackend
from rag.answers.backends.ollama import OllamaBackend
from rag.answers.backends.openai import OpenAiBackend
from rag.answers.contracts import EXTRACTIVE

_extractive = ExtractiveBackend()


def backend_of(model: str) -> Backend:
    """Raises `BackendRefusedError` for a server that isn't configured."""
    kind, _, name = model.partition("/")
    if model == EXTRACTIVE:
        return _extractive
    if kind == "ollama" and name:
        servers: list[OllamaBackend | OpenAiBackend] = [_ollama(url) for url in settings.REGISTRY_OLLAMA_URLS]
        variable = "REGISTRY_OLLAMA_URLS"
    elif kind == "openai" and name:
        servers = [_openai(url, settings.REGISTRY_OPENAI_API_KEY) for url in settings.REGISTRY_OPENAI_URLS]
        variable = "REGISTRY_OPENAI_URLS"
    else:
        raise BackendRefusedError(f"'{model}' names no model: write extractive, ollama/NAME or openai/NAME.")
    if not servers:
        raise BackendRefusedError(f"No server for {model} is configured: set {variable}.")
    return next((one for one in servers if not one.server.is_left_alone), servers[0])


def is_configured(model: str) -> bool:
    """Whether there is a server to ask for a model at all."""
    try:
        backend_of(model)
    except BackendRefusedError:
        return False
    return True


def is_left_alone(model: str) -> bool:
    """Whether the server of a configured model failed lately, as this process knows."""
    backend = backend_of(model)
    return isinstance(backend, OllamaBackend | OpenAiBackend) and backend.server.is_left_alone


@lru_cache(maxsize=32)
def _ollama(url: str) -> OllamaBackend:
    return OllamaBackend(url)


@lru_cache(maxsize=32)
def _openai(url: str, api_key: str) -> OpenAiBackend:
    return OpenAiBackend(url, api_key)
