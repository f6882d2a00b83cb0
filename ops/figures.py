"""What ``/metrics/basic``, ``/metrics/json`` and ``/ws/metrics`` tell."""

from __future__ import annotations

from typing import Any

from ops.contracts.inventory import model_inventory
from ops.instrumentation.shared import figures
from ops.system import system_figures


def basic_figures() -> dict[str, Any]:
    """Counters and stage latencies, from memory."""
    now = figures()
    return {
        "counters": {**now.totals(), "cache_hits": now.cache_hits()},
        "stages": now.stages(),
    }


def full_figures() -> dict[str, Any]:
    """The machine, the queries and the models. Asks the database for the models."""
    now = figures()
    totals = now.totals()
    return {
        "system": system_figures(),
        "query_stats": {
            "queries": totals["queries"],
            "errors": totals["query_errors"],
            "cache_hits": now.cache_hits(),
            "cache_lookups": now.cache_lookups(),
            "stages": now.stages(),
        },
        "models": model_inventory(),
    }
