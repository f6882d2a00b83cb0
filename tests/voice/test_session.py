"""Spoken conversations over ``/ws/voice``, through the real application with the real engines."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from pytest_django.fixtures import Settings

from models_registry.live import view
from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.instrumentation.snapshot import SNAPSHOT
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from tests.ops.sockets.test_sockets import outcome
from tests.voice.client import Talker, talking
from tests.voice.sounds import noise, pcm_of, silence
from voice import installed, sessions
from voice.engines.listening import ListeningPool
from voice.engines.speaking import PhraseCache, SpeakingPool
from voice.protocol import FRAME

pytestmark = pytest.mark.django_db(transaction=True)

RUNBOOK = (
    "When queries are slow, look at the dashboard first. The cache of answers may be empty after a restart. "
    "The runbook says that slow queries are listed in the table of the slowest ones. "
    "If the database is busy, stop the indexing worker and wait until the load falls."
)


@pytest.fixture(scope="module", autouse=True)
def _everything_ends_with_the_module(django_db_setup: None) -> Iterator[None]:
    """The engines, and the view of what is live, which the application began to follow when it was imported."""
    yield
    installed.close_engines()
    view.reset()


@pytest.fixture
def runbook(live_models: None, empty_cache: None, keys_off: None, settings: Settings) -> None:
    settings.VOICE_RESUME_S = 30
    settings.VOICE_VOCABULARY = False
    settings.VOICE_STT_PROCESSES = 1
    collection = Collection.objects.create(slug="default")
    run = start_run(
        collection, [Offer("runbook", RUNBOOK.encode(), source="runbook.md")], SYSTEM, "command", enqueue=False
    )
    while process_batch(run.id):
        pass


@pytest.fixture
async def talker(runbook: None) -> AsyncIterator[Talker]:
    async with talking() as talker:
        yield talker
    await sessions.end_all()
    await sync_to_async(connections.close_all)()


async def ask_by_voice(talker: Talker) -> None:
    await talker.say(pcm_of("slow-queries"))
    await talker.state("speaking")


async def test_a_spoken_question_is_answered_by_voice_with_its_passages(talker: Talker) -> None:
    before = SNAPSHOT.stages()
    started = await talker.start()
    assert started["input_rate"] == 16_000
    assert started["collection"] == "default"
    await talker.say(pcm_of("slow-queries"))
    while (ended := await talker.next_of("turn.ended"))["outcome"] == "cancelled":
        pass  # on a slow machine a turn may begin before all was heard, and is taken back then
    assert ended["outcome"] == "heard"
    assert "slow queries" in talker.seen("transcript.final")[-1]["text"]
    retrieval = talker.seen("retrieval")[-1]
    assert retrieval["passages"][0]["document_id"] == "runbook"
    assert talker.seen("citation")
    answer = "".join(message["text"] for message in talker.seen("answer.delta"))
    spoken = [message["text"] for message in talker.seen("audio.sentence")]
    assert "slow" in answer
    assert ended["heard"].endswith(" ".join(spoken))
    assert len(talker.sound) > started["output_rate"]
    states = [message["state"] for message in talker.seen("turn.state")]
    assert states[0] == "listening"
    assert states[-2:] == ["thinking", "speaking"]
    (figures,) = talker.seen("metrics")
    counted = {
        name: one["count"] - before.get(name, one | {"count": 0})["count"] for name, one in SNAPSHOT.stages().items()
    }
    assert all(counted[name] > 0 for name in ("vad", "stt", "embed", "generation", "tts")), counted
    assert 0 < figures["endpoint_ms"] <= figures["first_audio_ms"]
    assert figures["first_token_ms"] <= figures["first_audio_ms"]
    assert [m["seq"] for m in talker.messages if "seq" in m] == sorted(m["seq"] for m in talker.messages if "seq" in m)


async def test_a_question_over_its_voice_stops_it_is_answered_and_the_rest_offered(talker: Talker) -> None:
    await talker.start()
    talker.plays = False  # so that it is still being heard
    await ask_by_voice(talker)
    await talker.tell("audio.ack", position=8000)
    await talker.say(pcm_of("which-cache"))
    ducked = await talker.next_of("audio.duck")
    assert ducked["on"]
    interrupted = await talker.next_of("interrupted")
    ended = await talker.next_of("turn.ended")
    assert ended["outcome"] == "interrupted"
    whole = "".join(message["text"] for message in talker.seen("answer.delta"))
    assert len(ended["heard"]) < len(whole)
    talker.position, talker.plays = interrupted["position"], True
    await talker.state("thinking")
    await talker.state("resuming")
    await talker.next_of("audio.sentence")
    assert talker.messages[-1]["text"] == "Shall I go on from where I was?"


async def test_typed_questions_and_the_stop_button(talker: Talker) -> None:
    await talker.start()
    talker.plays = False
    await talker.tell("input.text", text="What are slow queries?")
    await talker.state("speaking")
    await talker.tell("stop")
    assert (await talker.next_of("interrupted"))["kind"] == "stop"
    assert (await talker.next_of("turn.ended"))["outcome"] == "stopped"
    await talker.state("listening")


async def test_silence_and_noise_are_no_turn(talker: Talker) -> None:
    await talker.start()
    await talker.send(silence(800) + noise(800) + silence(800))
    await talker.tell("input.text", text="What are slow queries?")
    await talker.next_of("turn.started")
    assert not talker.seen("transcript.final")
    assert len(talker.seen("turn.started")) == 1


async def test_with_a_button_only_letting_go_ends_the_turn(talker: Talker) -> None:
    await talker.start(hands_free=False)
    await talker.send(silence(320) + pcm_of("slow-queries") + silence(640))
    await talker.next_of("vad.ended")
    await talker.tell("input.commit")
    assert "slow queries" in (await talker.next_of("turn.started"))["text"]


async def test_a_lost_connection_goes_on_with_the_sentence(runbook: None) -> None:
    async with talking() as first:
        await first.start()
        first.plays = False
        await first.tell("input.text", text="What are slow queries?")
        await first.state("speaking")
        sentence = first.seen("audio.sentence")[0]
        session = next(iter(sessions._sessions))
    assert session.outlet is None or session._control
    async with talking() as second:
        await second.tell("session.start", versions=[1], acknowledges=True, resume=first.token)
        assert (await second.next_of("session.started"))["resumed"]
        assert (await second.next_of("resumed"))["sentence"] == sentence["sentence"]
        assert (await second.next_of("audio.sentence"))["text"] == sentence["text"]
        assert (await second.next_of("turn.ended"))["outcome"] == "heard"
        await second.tell("session.end")
    await sessions.end_all()


async def test_past_its_capacity_it_refuses_politely(runbook: None, settings: Settings) -> None:
    settings.VOICE_MAX_SESSIONS = 1
    async with talking() as first, talking() as second:
        await first.start()
        await second.tell("session.start", versions=[1])
        problem = (await second.next_of("problem"))["problem"]
        assert problem["status"] == 503
        assert problem["retry_after_s"] > 0
        assert (await second.next())["code"] == 4503
        await first.tell("session.end")
        assert await _closed(first) == 1000
    await sessions.end_all()
    assert sessions.open_sessions() == 0


async def _closed(talker: Talker) -> int:
    while (message := await talker.next())["type"] != "closed":
        pass
    return int(message["code"])


WRONG: list[tuple[str, dict[str, Any], int]] = [
    ("session.start", {"versions": [1], "sample_rate": 44_100}, 415),
    ("session.start", {"versions": [1], "collection": "nowhere"}, 404),
    ("session.start", {"versions": [1], "resume": "made-up"}, 404),
    ("session.start", {"versions": "1"}, 400),
    ("session.start", {"versions": [1], "style": "shouting"}, 400),
    ("session.start", {"versions": [1], "voice": 7}, 400),
    ("session.start", {}, 400),
    ("input.text", {"text": "too early"}, 409),
    ("input.text", {"text": " "}, 400),
    ("audio.ack", {"position": -1}, 400),
    ("nonsense", {}, 400),
    ("session.start", {"versions": [99]}, 400),
]


async def test_what_is_wrong_is_told_and_without_a_common_version_the_socket_closes(talker: Talker) -> None:
    for name, fields, status in WRONG:
        await talker.tell(name, **fields)
        assert (await talker.next_of("problem"))["problem"]["status"] == status, (name, fields)
    assert await _closed(talker) == 4400


async def test_sound_that_is_none_and_sound_out_of_order(talker: Talker) -> None:
    await talker.start()
    for broken in (b"", b"\x01", FRAME.pack(9, 0, 0, 1) + b"xx", FRAME.pack(1, 0, 0, 1) + b"xxx"):
        await talker.send_frame(broken)
        assert (await talker.next_of("problem"))["problem"]["status"] == 400
    await talker.send_frame(FRAME.pack(1, 0, 0, 5) + bytes(1024))
    await talker.send_frame(FRAME.pack(1, 0, 0, 4) + bytes(1024))
    assert (await talker.next_of("error"))["code"] == "audio-dropped"


async def test_a_flood_of_sound_is_bounded(talker: Talker) -> None:
    await talker.start()
    session = next(iter(sessions._sessions))
    for number in range(300):
        session.take_sound(number, bytes(32_000))
    assert session._sound_bytes <= 4000 * 32
    assert session.frames_dropped > 200
    assert (await talker.next_of("error"))["code"] == "audio-dropped"


async def test_a_flood_of_messages_is_refused(talker: Talker) -> None:
    await talker.start()
    for _ in range(600):
        await talker.tell("audio.ack", position=0)
    assert (await talker.next_of("problem"))["problem"]["status"] == 429


async def test_a_client_that_hears_nothing_is_sent_no_more_than_a_little(talker: Talker) -> None:
    await talker.start()
    talker.plays = False
    await talker.tell("input.text", text="What are slow queries?")
    await talker.state("speaking")
    session = next(iter(sessions._sessions))
    assert session._playback.ahead_ms(session.now_ms()) < 4500


async def test_ears_that_die_cost_an_utterance_nothing(talker: Talker) -> None:
    await talker.start()
    ears = (await sync_to_async(installed.speech_to_text)()).engine
    assert isinstance(ears, ListeningPool)
    await sync_to_async(ears.warm_up)()
    for pid in ears.pool.child_pids():
        os.kill(pid, signal.SIGKILL)
    await talker.say(pcm_of("slow-queries"))
    assert "slow queries" in (await talker.next_of("turn.started"))["text"]


async def test_what_ends_leaves_nothing_behind(runbook: None) -> None:
    for prepare in (None, "say", "ask"):
        async with talking() as talker:
            await talker.start()
            if prepare == "say":
                await talker.send(pcm_of("slow-queries"))
            elif prepare == "ask":
                await talker.tell("input.text", text="What are slow queries?")
                await talker.next_of("turn.started")
    await sessions.end_all()
    assert sessions.open_sessions() == 0
    ears = (await sync_to_async(installed.speech_to_text)()).engine
    assert isinstance(ears, ListeningPool)
    assert ears.pool.waiting == 0


async def test_strangers_and_pages_of_other_sites_open_no_session(runbook: None) -> None:
    assert await outcome(where="/ws/voice", client="203.0.113.9") == 4401
    assert await outcome({"origin": "https://evil.example"}, where="/ws/voice") == "denied"
    assert sessions.open_sessions() == 0


async def test_a_key_without_voice_opens_none(runbook: None, settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    key = await sync_to_async(lambda: keys.create_key("test", [Scope.QUERY], actor=SYSTEM).text)()
    assert await outcome({"x-api-key": key}, where="/ws/voice") == 4403


async def test_a_session_of_somebody_who_lost_the_right_ends_at_once(runbook: None, settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    key = await sync_to_async(lambda: keys.create_key("test", [Scope.VOICE], actor=SYSTEM).text)()
    async with talking({"x-api-key": key}) as talker:
        await talker.start()
        await sync_to_async(keys.revoke_key)(key.split("_")[1], actor=SYSTEM)
        assert await _closed(talker) == 4401
    await sessions.end_all()
    assert sessions.open_sessions() == 0


async def test_a_mouth_that_dies_is_replaced(talker: Talker) -> None:
    await talker.start()
    mouth = (await sync_to_async(installed.text_to_speech)()).engine
    assert isinstance(mouth, SpeakingPool)
    await sync_to_async(mouth.warm_up)()
    mouth.phrases = PhraseCache(0)
    for pid in mouth.pool.child_pids():
        os.kill(pid, signal.SIGKILL)
    await talker.tell("input.text", text="What are slow queries?")
    assert (await talker.next_of("turn.ended"))["outcome"] == "heard"
    assert len(talker.sound) > 10_000
