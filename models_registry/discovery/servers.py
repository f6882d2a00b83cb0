"""Servers that list their models over HTTP. What they answer is checked before it is believed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from models_registry.discovery.types import Found, Running, SourceError
from models_registry.models import ModelKind
from ops import outgoing

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_MODELS = 2000
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+ -]{0,99}")

EMBEDDER_FAMILIES = frozenset({"bert", "nomic-bert", "nomic-bert-moe"})
"""Ollama's ``details.family`` of models that only embed."""


@dataclass(frozen=True, slots=True)
class Ollama:
    """https://github.com/ollama/ollama/blob/main/docs/api.md: ``/api/tags`` what there is, ``/api/ps`` what runs."""

    url: str

    @property
    def label(self) -> str:
        return f"ollama {self.url}"

    def look(self) -> Sequence[Found]:
        return [self._found(entry) for entry in _entries(_get(f"{self.url}/api/tags"), "models", self.url)]

    def running(self) -> Sequence[Running]:
        models = []
        for entry in _entries(_get(f"{self.url}/api/ps"), "models", self.url):
            size, in_gpu = _count(entry.get("size")), _count(entry.get("size_vram")) or 0
            device = "cpu" if not in_gpu else "gpu" if in_gpu >= (size or 0) else "gpu and cpu"
            models.append(Running(_ollama_name(entry, self.url), _text(entry.get("digest")), size, device))
        return models

    def _found(self, entry: dict[str, Any]) -> Found:
        details = entry.get("details")
        details = details if isinstance(details, dict) else {}
        family = _text(details.get("family"))
        is_embedder = family in EMBEDDER_FAMILIES or "embed" in _text(entry.get("name"))
        return Found(
            name=_ollama_name(entry, self.url),
            kind=ModelKind.EMBEDDER if is_embedder else ModelKind.LLM,
            provider="ollama",
            digest=_text(entry.get("digest")),
            parameters={
                "url": self.url,
                "model": _text(entry.get("name")),
                "size_bytes": _count(entry.get("size")),
                "family": family,
                "parameter_size": _text(details.get("parameter_size")),
                "quantization": _text(details.get("quantization_level")),
            },
        )


@dataclass(frozen=True, slots=True)
class OpenAi:
    """``/v1/models`` of any server that speaks OpenAI's protocol. It tells names and nothing of versions."""

    url: str
    api_key: str = ""

    @property
    def label(self) -> str:
        return f"openai {self.url}"

    def look(self) -> Sequence[Found]:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return [self._found(entry) for entry in _entries(_get(f"{self.url}/models", headers), "data", self.url)]

    def running(self) -> None:
        return None

    def _found(self, entry: dict[str, Any]) -> Found:
        name = _checked_name(entry.get("id"), self.url)
        return Found(
            name=f"openai/{name}",
            kind=_kind_by_name(name),
            provider="openai",
            # Some servers give the time of the answer as `created`, so only the name identifies a model.
            digest=name,
            parameters={"url": self.url, "model": name, "owned_by": _text(entry.get("owned_by"))},
        )


def _kind_by_name(name: str) -> ModelKind:
    """What a model is for, by what such models are called: the protocol does not tell."""
    words = name.lower()
    for part, kind in (
        ("embed", ModelKind.EMBEDDER),
        ("whisper", ModelKind.STT),
        ("transcribe", ModelKind.STT),
        ("tts", ModelKind.TTS),
    ):
        if part in words:
            return kind
    return ModelKind.LLM


def _get(url: str, headers: dict[str, str] | None = None) -> Any:
    """The JSON that a URL answers with. Raises `SourceError`."""
    try:
        with (
            outgoing.client(timeout_s=TIMEOUT_S) as client,
            client.stream("GET", url, headers=headers or {}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise SourceError(f"{url} answers with status {response.status_code}.")
            content = bytearray()
            for block in response.iter_bytes():
                content += block
                if len(content) > MAX_ANSWER_BYTES:
                    raise SourceError(f"{url} answers with more than {MAX_ANSWER_BYTES} bytes.")
            return httpx.Response(200, content=bytes(content)).json()
    except outgoing.OutgoingRefusedError as refusal:
        raise SourceError(str(refusal)) from refusal
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SourceError(f"{url} can't be reached ({type(error).__name__}).") from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{url} does not answer with JSON.") from error


def _entries(answer: Any, member: str, url: str) -> list[dict[str, Any]]:
    listed = answer.get(member) if isinstance(answer, dict) else None
    if listed is None and isinstance(answer, dict) and member in answer:
        return []  # Ollama says null where there is none
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise SourceError(f"{url} does not answer with a list of {member}.")
    if len(listed) > MAX_MODELS:
        raise SourceError(f"{url} lists {len(listed)} models; at most {MAX_MODELS} are taken.")
    return listed


def _ollama_name(entry: dict[str, Any], url: str) -> str:
    return f"ollama/{_checked_name(entry.get('name') or entry.get('model'), url)}"


def _checked_name(name: object, url: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise SourceError(f"{url} lists a model whose name can't be used: {str(name)[:60]!r}.")
    return name


def _text(value: object) -> str:
    """A short text as the database can hold it; empty for anything else."""
    return "".join(c for c in value[:200] if c.isprintable()) if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53 else None
