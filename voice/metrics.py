"""What is counted of voice, and the row of a turn in the performance store."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from django.utils import timezone

from ops.contracts.metrics import declare_counter, declare_gauge, declare_latency
from ops.contracts.principal import Principal, PrincipalKind
from ops.contracts.stage import begun_stage
from ops.instrumentation.performance import VOICE_MODE, PerformanceRow, performance_writer
from rag.query_log import query_hmac

SESSIONS = declare_gauge("zenglow_voice_sessions", "Voice sessions, those included that wait for a lost connection.")
REFUSED = declare_counter("zenglow_voice_sessions_refused", "Voice sessions that were refused, for want of room.")
TURNS = declare_counter("zenglow_voice_turns", "Turns of voice sessions, by how they ended.", ("outcome",))
INTERRUPTIONS = declare_counter("zenglow_voice_interruptions", "What was said over the agent's voice.", ("kind",))
DROPPED = declare_counter("zenglow_voice_frames_dropped", "Frames of sound that were not heard.", ("reason",))
TURN_LATENCY = declare_latency(
    "zenglow_voice_turn_seconds", "From the end of speech to each part of the answer.", ("part",)
)


def record_turn(
    *, request_id: str, text: str, collection: str, principal: Principal, timings_ms: dict[str, float], failed: bool
) -> None:
    """One row of ``query_performance``, of `VOICE_MODE`, beside that of the search with the same request id."""
    performance_writer().add(
        PerformanceRow(
            occurred_at=timezone.now(),
            request_id=request_id,
            query_hmac=query_hmac(text),
            collection=collection,
            variant="stable",
            mode=VOICE_MODE,
            cache="none",
            status=503 if failed else 200,
            timings_ms=timings_ms,
            key_prefix=principal.name if principal.kind is PrincipalKind.API_KEY else None,
        )
    )


def end_stage(stage: begun_stage, future: Future[Any]) -> None:
    """An engine's stage ends with its future; it counts unless it was cancelled."""
    if future.cancelled():
        stage.end(counts=False)
    else:
        stage.end(future.exception())
