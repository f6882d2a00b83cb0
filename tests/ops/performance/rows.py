"""Rows of the performance store, as tests write them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from ops.instrumentation.performance import PerformanceRow, _copy


def row(**changes: Any) -> PerformanceRow:
    return PerformanceRow(
        **(
            {
                "occurred_at": timezone.now(),
                "request_id": uuid.uuid4(),
                "query_hmac": "ab" * 32,
                "collection": "docs",
                "variant": "stable",
                "mode": "pgvector",
                "cache": "none",
                "status": 200,
                "result_count": 10,
                "top_score": 0.5,
                "timings_ms": {"pipeline_ms": 12.0},
            }
            | changes
        )
    )


def write(rows: Iterable[PerformanceRow]) -> None:
    """By COPY, as the batches are."""
    _copy(list(rows))
