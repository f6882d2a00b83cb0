"""Bad sound, bad clients, engines that die, connections that break: told, bounded, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import numpy as np
import pytest
from asgiref.sync import sync_to_async
from pytest_django.fixtures import Settings

from tests.ops.sockets.test_sockets import outcome
from tests.patience import eventually
from tests.voice.client import Talker, talking
from tests.voice.sounds import music, noise, pcm_of, silence
from voice import installed, sessions
from voice.engines.contracts import BYTES_PER_MS
from voice.engines.listening import ListeningPool
from voice.engines.speaking import PhraseCache, SpeakingPool
from voice.protocol import FRAME
from voice.session import BACKLOG_MS, VoiceSession
from voice.turns.manager import State

pytestmark = pytest.mark.django_db(transaction=True)

CRASHES = "tests.voice.crashing_child"


async def engines() -> tuple[ListeningPool, SpeakingPool]:
    ears, mouth = [
        (await sync_to_async(find)()).engine for find in (installed.speech_to_text, installed.text_to_speech)
    ]
    assert isinstance(ears, ListeningPool)
    assert isinstance(mouth, SpeakingPool)
    return ears, mouth


def kill(*pools: ListeningPool | SpeakingPool) -> None:
    for engine in pools:
        for pid in engine.pool.child_pids():
            os.kill(pid, signal.SIGKILL)


@contextmanager
def crashing(ears: ListeningPool, mouth: SpeakingPool) -> Iterator[None]:
    """Both engines die, and die again whenever they are used."""
    before = ears.pool.module, mouth.pool.module
    ears.pool.module = mouth.pool.module = CRASHES
    mouth.phrases = PhraseCache(0)
    kill(ears, mouth)
    try:
        yield
    finally:
        ears.pool.module, mouth.pool.module = before


def the_session() -> VoiceSession:
    (session,) = sessions._sessions
    return session


async def reach(talker: Talker, state: State) -> None:
    """Talk until the session is in that state, and in the middle of it."""
    match state:
        case State.LISTENING:
            await talker.send(silence(320) + pcm_of("slow-queries")[: 1000 * BYTES_PER_MS])
            await talker.next_of("vad.started")
        case State.ENDPOINTING:
            await talker.say(pcm_of("tail-and"))
            await talker.state("endpointing")
        case State.THINKING:
            await talker.tell("input.text", text="What are slow queries?")
            await talker.state("thinking")
        case State.SPEAKING:
            talker.plays = False
            await talker.tell("input.text", text="What are slow queries?")
            await talker.state("speaking")
        case State.INTERRUPTED:
            await reach(talker, State.SPEAKING)
            await talker.tell("audio.ack", position=talker.position + 8000)
            await talker.say(pcm_of("which-cache"))
            await talker.state("interrupted")
        case State.RESUMING:
            await reach(talker, State.INTERRUPTED)
            talker.position, talker.plays = (await talker.next_of("interrupted"))["position"], True
            await talker.state("resuming")


async def nothing_is_left() -> None:
    """No session, no task of one, and engines that wait for work."""
    await sessions.end_all()
    assert sessions.open_sessions() == 0
    for engine in await engines():
        pool = engine.pool
        await asyncio.to_thread(eventually, lambda pool=pool: not pool.waiting and pool._idle == len(pool._threads))
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        assert "voice" not in repr(task), task


@pytest.mark.parametrize("state", list(State))
async def test_in_every_state_engines_may_crash_and_the_connection_break(runbook: None, state: State) -> None:
    async with talking() as talker:
        await talker.start()
        await reach(talker, state)
        with crashing(*await engines()):
            await talker.send(silence(640))
            await talker.tell("input.text", text="What are slow queries?")
            assert (await talker.next_of("error"))["code"] in {"stt-failed", "tts-failed"}
        await talker.tell("stop")
        await talker.state("listening")
        talker.plays, talker.position = True, the_session()._playback.sent
        await talker.tell("input.text", text="What are slow queries?")
        assert (await talker.end_of_turn())["outcome"] == "heard"
    await nothing_is_left()
    async with talking() as talker:
        await talker.start()
        await reach(talker, state)
        session = the_session()
    assert session.attached_to is None
    await nothing_is_left()
    assert not session._sound
    assert not session._control
    assert not session._stretches
    assert session._making is None


async def test_ears_that_die_cost_an_utterance_nothing(talker: Talker) -> None:
    await talker.start()
    ears, _ = await engines()
    await sync_to_async(ears.warm_up)()
    kill(ears)
    await talker.say(pcm_of("slow-queries"))
    assert "slow queries" in (await talker.next_of("turn.started"))["text"]


async def test_a_mouth_that_dies_is_replaced(talker: Talker) -> None:
    await talker.start()
    _, mouth = await engines()
    await sync_to_async(mouth.warm_up)()
    mouth.phrases = PhraseCache(0)
    kill(mouth)
    await talker.tell("input.text", text="What are slow queries?")
    assert (await talker.next_of("turn.ended"))["outcome"] == "heard"
    assert len(talker.sound) > 10_000


async def test_who_does_not_come_back_in_time_is_given_up(runbook: None, settings: Settings) -> None:
    settings.VOICE_RESUME_S = 0.01
    async with talking() as talker:
        await talker.start()
        (task,) = sessions._sessions.values()
    await task
    assert sessions.open_sessions() == 0


# --- sound ----


async def test_silence_noise_and_music_are_no_turn(talker: Talker) -> None:
    await talker.start()
    await talker.send(silence(800) + noise(800) + silence(800) + music(2000) + silence(800))
    await talker.tell("input.text", text="What are slow queries?")
    await talker.next_of("turn.started")
    assert not talker.seen("transcript.final")
    assert len(talker.seen("turn.started")) == 1


async def test_speech_that_is_clipped_is_a_turn_and_whoever_speaks_is_told_why_it_is_heard_badly(
    talker: Talker,
) -> None:
    await talker.start()
    loud = np.frombuffer(pcm_of("slow-queries"), "<i2").astype(np.int32) * 4
    await talker.say(np.clip(loud, -32768, 32767).astype("<i2").tobytes())
    assert (await talker.next_of("error"))["code"] == "audio-clipped"
    assert (await talker.end_of_turn())["outcome"] in {"heard", "interrupted"}
    assert len(talker.seen("error")) == 1


async def test_a_monologue_is_answered_when_a_turn_has_been_long_enough(runbook: None, settings: Settings) -> None:
    settings.VOICE_TURN_MAX_S = 1.5
    async with talking() as talker:
        await talker.start()
        session = the_session()
        speech = pcm_of("slow-queries") + pcm_of("restart-server")
        for start in range(0, len(speech), 1600 * BYTES_PER_MS):
            await talker.send(speech[start : start + 1600 * BYTES_PER_MS])
            await talker.next_of("transcript.partial", "turn.started", "turn.ended")
            assert session._sound_bytes <= BACKLOG_MS * BYTES_PER_MS
        await talker.next_of("answer.delta")
        # However long somebody speaks, the sound that was understood is let go.
        assert [one for one in session._stretches if one.is_final and one.recognition is not None] == []
    await nothing_is_left()


async def test_sound_that_is_none_and_sound_out_of_order(talker: Talker) -> None:
    await talker.start()
    for broken in (b"", b"\x01", FRAME.pack(9, 0, 0, 1) + b"xx", FRAME.pack(1, 0, 0, 1) + b"xxx"):
        await talker.send_frame(broken)
        assert (await talker.next_of("problem"))["problem"]["status"] == 400
    await talker.send_frame(FRAME.pack(1, 0, 0, 5) + bytes(1024))
    await talker.send_frame(FRAME.pack(1, 0, 0, 4) + bytes(1024))
    assert (await talker.next_of("error"))["code"] == "audio-dropped"


# --- clients ----


async def test_a_flood_of_sound_is_bounded(talker: Talker) -> None:
    await talker.start()
    session = the_session()
    for number in range(300):
        session.take_sound(number, bytes(32_000))
    assert session._sound_bytes <= BACKLOG_MS * BYTES_PER_MS
    assert session.frames_dropped > 200
    assert (await talker.next_of("error"))["code"] == "audio-dropped"


async def test_a_flood_of_messages_is_refused(talker: Talker) -> None:
    await talker.start()
    for _ in range(600):
        await talker.tell("audio.ack", position=0)
    assert (await talker.next_of("problem"))["problem"]["status"] == 429


async def test_a_client_that_hears_nothing_is_sent_no_more_than_a_little(talker: Talker) -> None:
    await talker.start()
    await reach(talker, State.SPEAKING)
    session = the_session()
    assert session._playback.ahead_ms(session.now_ms()) < 4500


async def test_fifty_who_come_at_once_are_let_in_or_refused_and_leave_nothing(
    runbook: None, settings: Settings
) -> None:
    settings.VOICE_MAX_SESSIONS = 4

    async def come() -> tuple[str, int | None]:
        talker = await stack.enter_async_context(talking())
        await talker.tell("session.start", versions=[1])
        answer = await talker.next_of("session.started", "problem")
        return answer["type"], answer.get("problem", {}).get("status")

    async with AsyncExitStack() as stack:
        came = await asyncio.gather(*(come() for _ in range(50)))
        assert came.count(("session.started", None)) == 4
        assert came.count(("problem", 503)) == 46
        assert sessions.open_sessions() == 4
    await nothing_is_left()


async def test_strangers_and_pages_of_other_sites_open_no_session(runbook: None) -> None:
    assert await outcome(where="/ws/voice", client="203.0.113.9") == 4401
    assert await outcome({"origin": "https://evil.example"}, where="/ws/voice") == "denied"
    assert sessions.open_sessions() == 0
