"""What is counted of voice and of its engines' calls, and the row of a turn in the performance store."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from django.utils import timezone

from ops.contracts.metrics import declare_counter, declare_gauge, declare_latency
from ops.contracts.model_calls import begun_call
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


OPERATIONS = {"stt": "transcribe", "tts": "speak"}


class EngineCall:
    """An engine begins to work now: a stage, and a call of its model within it. ``label`` is that of
    `voice.installed.Heard` or `voice.installed.Spoken`.
    """

    def __init__(self, kind: Literal["stt", "tts"], label: str) -> None:
        self._stage = begun_stage(kind)
        self._call = self._stage.run(partial(begun_call, kind, model_of(label), OPERATIONS[kind], items=1))

    def end(self, error: BaseException | None = None, *, counts: bool = True) -> None:
        """Once, on any thread. ``counts=False``: it was given up."""
        self._call.end(error, counts=counts)
        self._stage.end(error, counts=counts)

    def end_with(self, future: Future[Any]) -> None:
        """It ends with the engine's future, and counts unless that is cancelled."""
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[Any]) -> None:
        if future.cancelled():
            self.end(counts=False)
        else:
            self.end(future.exception())


def model_of(label: str) -> str:
    """``name@number`` in the label of an engine, which may go on with whose place it takes."""
    return label.partition(", ")[0]
