"""The voice sessions of this process: who may begin one, and which wait for a lost connection."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from django.conf import settings

from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound, Unavailable
from ops.instrumentation.processes import registry
from voice import metrics
from voice.installed import (
    judge_of_interruptions,
    speech_to_text,
    text_to_speech,
    voice_activity,
    wake_word,
)
from voice.session import Options, Parts, VoiceSession
from voice.vocabulary.service import newest_of, vocabulary_for

logger = logging.getLogger(__name__)

SESSIONS_PER_CORE = 2
"""Of people who all ask at the same moment so many still hear the first sound within a second, in the median."""
RETRY_AFTER_S = 15

_sessions: dict[VoiceSession, asyncio.Task[None]] = {}
_beginning = 0


def capacity() -> int:
    """Sessions that this process takes at once: of several web processes one has them all, `zenglow_site.handover`."""
    of_the_machine: int = SESSIONS_PER_CORE * (os.cpu_count() or 1)
    return settings.VOICE_MAX_SESSIONS or of_the_machine


def open_sessions() -> int:
    return len(_sessions) + _beginning


def open_everywhere() -> int:
    """Of several web processes one has them all, and it need not be this one: as ``/metrics`` tells."""
    return int(registry().get_sample_value("zenglow_voice_sessions") or 0)


def refuse_when_full() -> None:
    """Raises `Unavailable`, with the time after which to try again."""
    if open_sessions() >= capacity():
        metrics.REFUSED.inc()
        raise Unavailable(
            f"All {capacity()} places for spoken conversations are taken. Try again in a moment, or ask in writing.",
            retry_after_s=RETRY_AFTER_S,
        )


async def begin(
    principal: Principal, options: Options, in_thread: Callable[..., Any], charge: Callable[[], Any]
) -> VoiceSession:
    """A new session, running. Raises `Unavailable`: no room, or no engine."""
    global _beginning
    refuse_when_full()
    _beginning += 1
    try:
        parts = await in_thread(_parts)(options.collection)
    finally:
        _beginning -= 1
    session = VoiceSession(principal, options, parts, charge)
    _sessions[session] = asyncio.create_task(_run(session))
    metrics.SESSIONS.inc()
    return session


def find(token: str, principal: Principal) -> VoiceSession:
    """The session that waits for its connection to come back. Raises `NotFound`."""
    told = token.encode()  # the comparison takes texts of ASCII alone, and a client may send any
    for session in _sessions:
        is_it = hmac.compare_digest(session.token.encode(), told)
        if is_it and _same(session.principal, principal) and not session.is_over:
            return session
    raise NotFound("That session is over. Begin a new one.")


async def end_all() -> None:
    """End every session of this event loop, and wait until they are gone."""
    loop = asyncio.get_running_loop()
    tasks = [task for task in _sessions.values() if task.get_loop() is loop]
    for session in list(_sessions):
        session.end()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


async def _run(session: VoiceSession) -> None:
    try:
        await session.run()
    except Exception:
        logger.exception("A voice session failed")
        outlet = session.outlet
        if outlet is not None:
            with suppress(Exception):
                await outlet.send_json(
                    {
                        "type": "error",
                        "seq": 1,
                        "code": "session-failed",
                        "fatal": True,
                        "detail": "This is a fault of the server. Begin a new session.",
                    }
                )
    finally:
        session.is_over = True
        _sessions.pop(session, None)
        metrics.SESSIONS.dec()
        if session.on_over is not None:
            session.on_over()


def _same(one: Principal, other: Principal) -> bool:
    return (one.kind, one.name, one.user_id) == (other.kind, other.name, other.user_id)


def _parts(collection: str) -> Parts:
    hear, speak = speech_to_text(collection), text_to_speech(collection)
    judge = judge_of_interruptions(collection)
    kind = hear.engine.vocabulary_kind
    has_vocabulary = settings.VOICE_VOCABULARY
    vocabulary_for(collection, kind)  # has it made, where there is none of the collection as it is
    return Parts(
        hear=hear.engine,
        speak=speak.engine,
        detector=voice_activity(),
        judge=judge,
        vocabulary=lambda: newest_of(collection, kind) if has_vocabulary else None,
        wake=wake_word(),
        labels={"stt": hear.label, "tts": speak.label, "interruption": judge.name},
    )
