"""What is deployed: the registry tells, ``/metrics/json`` and ``/health/models`` show it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

ModelInventory = Callable[[], list[dict[str, Any]]]
"""Returns one JSON object for each model version that is live: at least ``slot``, ``name``, ``version``, ``state``."""

_sources: list[ModelInventory] = []


def register_model_inventory(source: ModelInventory) -> None:
    """Add a source, once."""
    if source not in _sources:
        _sources.append(source)


def model_inventory() -> list[dict[str, Any]]:
    """Everything that is live, of every source in the order of their registration."""
    return [entry for source in _sources for entry in source()]
