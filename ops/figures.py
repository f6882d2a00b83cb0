"""What the metrics routes and the socket tell, as JSON."""

from __future__ import annotations

from typing import Any

from ops.instrumentation.snapshot import SNAPSHOT


def basic_figures() -> dict[str, Any]:
    """Counters and stage latencies of this process, from memory."""
    return {"counters": SNAPSHOT.totals(), "stages": SNAPSHOT.stages()}
