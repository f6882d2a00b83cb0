"""What a source says of a model that it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from models_registry.models import ModelKind


class SourceError(Exception):
    """A source can't be looked at now. The message is one sentence for an operator, without secrets."""


@dataclass(frozen=True, slots=True)
class Found:
    """A model at a source. ``digest`` changes whenever its content does: then it is another version.

    ``files`` are copied into the artifact store, for providers that load them from there; without them the model stays
    where it is and ``parameters`` say where. One with a ``fault`` is told of and not registered.
    """

    name: str
    kind: ModelKind
    provider: str
    digest: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    description: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Running:
    """A model that a server holds in memory. ``digest`` as in `Found`."""

    name: str
    digest: str
    memory_bytes: int | None
    device: str


class Source(Protocol):
    """A place that is looked at. ``label`` is kept with each version that was found there, and names it to people."""

    @property
    def label(self) -> str: ...

    def look(self) -> Sequence[Found]:
        """Everything that is there. Raises `SourceError`."""

    def running(self) -> Sequence[Running] | None:
        """What it holds in memory now; ``None`` where that can't be asked. Raises `SourceError`."""
