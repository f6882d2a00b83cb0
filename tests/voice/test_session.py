"""Spoken conversations over ``/ws/voice``, through the real application with the real engines."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pytest_django.fixtures import Settings

from ops import keys
from ops.contracts.model_calls import ModelCall, trace_calls
from ops.contracts.principal import LOOPBACK, SYSTEM, Principal, PrincipalKind, Scope
from ops.contracts.stage import trace_stages
from ops.instrumentation.snapshot import SNAPSHOT
from ops.limits.buckets import take
from ops.limits.policy import buckets_of
from rag.api.answers import ANSWER_COST
from rag.chat import conversations
from rag.models import Conversation
from tests.ops.sockets.test_sockets import outcome
from tests.voice.client import Talker, talking
from tests.voice.sounds import pcm_of, silence
from voice import sessions
from voice.gate import level_of
from voice.opus import OpusDecoder, OpusEncoder
from voice.protocol import AUDIO_IN, FRAME

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_spoken_question_is_answered_by_voice_with_its_passages(talker: Talker) -> None:
    before = SNAPSHOT.stages()
    started = await talker.start()
    assert started["input_rate"] == 16_000
    assert started["collection"] == "default"
    await talker.say(pcm_of("slow-queries"))
    ended = await talker.end_of_turn()
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
    assert [message["seq"] for message in talker.messages] == list(range(1, len(talker.messages) + 1))


async def test_a_question_over_its_voice_stops_it_is_answered_and_the_rest_offered(talker: Talker) -> None:
    await talker.start()
    talker.plays = False  # so that it is still being heard
    await talker.ask_by_voice()
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


async def test_with_a_button_only_letting_go_ends_the_turn(talker: Talker) -> None:
    await talker.start(hands_free=False)
    await talker.send(silence(320) + pcm_of("slow-queries") + silence(640))
    await talker.next_of("vad.ended")
    await talker.tell("input.commit")
    assert "slow queries" in (await talker.next_of("turn.started"))["text"]


async def test_until_its_name_is_said_nothing_is_for_the_agent_and_then_what_follows_is(talker: Talker) -> None:
    await talker.start(wake_word=True)
    await talker.say(pcm_of("slow-queries"))
    await talker.say(pcm_of("leonardo-which-cache"))
    assert (await talker.next_of("wake", "turn.started"))["type"] == "wake"
    question = (await talker.next_of("turn.started"))["text"]
    assert "which" in question  # "cache" is heard as "cash"
    assert "quer" not in question
    assert len(talker.seen("vad.started")) == 1


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
        await second.tell("session.start", versions=[99, 1], acknowledges=True, resume=first.token)
        started = await second.next_of("session.started")
        assert (started["resumed"], started["version"], started["seq"] > first.messages[-1]["seq"]) == (True, 1, True)
        assert (await second.next_of("resumed"))["sentence"] == sentence["sentence"]
        assert (await second.next_of("audio.sentence"))["text"] == sentence["text"]
        assert (await second.next_of("turn.ended"))["outcome"] == "heard"
        # Somebody whose connection is gone without a word comes back before that is noticed.
        async with talking() as third:
            await third.tell("session.start", versions=[1], resume=first.token)
            assert (await third.next_of("session.started"))["session"] == started["session"]
            assert await second.closed() == 4409
            await third.tell("session.end")
    await sessions.end_all()


def test_there_are_two_places_for_each_core(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    settings.VOICE_MAX_SESSIONS = 0
    # All of them are in one process, however many answer.
    settings.ZENGLOW_WEB_PROCESSES = 2
    assert sessions.capacity() == 8


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
        assert await first.closed() == 1000
    await sessions.end_all()
    assert sessions.open_sessions() == 0


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
    assert await talker.closed() == 4400


async def test_a_key_without_voice_opens_none(runbook: None, settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    key = await sync_to_async(lambda: keys.create_key("test", [Scope.QUERY], actor=SYSTEM).text)()
    assert await outcome({"x-api-key": key}, where="/ws/voice") == 4403


@pytest.fixture
async def limited(runbook: None, settings: Settings) -> dict[str, str]:
    """The header of a key whose bucket hardly refills."""
    settings.ENABLE_API_KEYS = settings.RATE_LIMITS = True
    settings.OPS_RATE_LIMIT_KEY_PER_S, settings.OPS_RATE_LIMIT_IP_BURST = 1e-6, 1000
    made = await sync_to_async(lambda: keys.create_key("limited", [Scope.VOICE, Scope.QUERY], actor=SYSTEM))()
    return {"x-api-key": made.text}


async def test_a_spoken_question_is_refused_to_whom_has_less_left_than_an_answer_costs(
    limited: dict[str, str], settings: Settings
) -> None:
    settings.OPS_RATE_LIMIT_KEY_BURST = int(ANSWER_COST)  # of which opening the socket takes 1
    async with talking(limited) as talker:
        await talker.start()
        await talker.say(pcm_of("slow-queries"))
        refusal = await talker.next_of("error", "answer.delta")
        assert refusal["type"] == "error"
        assert refusal["detail"].startswith("Too many requests of this API key.")
    await sessions.end_all()


async def test_an_answer_on_the_socket_draws_what_one_over_http_costs(
    limited: dict[str, str], settings: Settings
) -> None:
    settings.OPS_RATE_LIMIT_KEY_BURST = 1 + int(ANSWER_COST) + 2
    async with talking(limited) as talker:
        await talker.start()
        await talker.tell("input.text", text="What are slow queries?")
        assert (await talker.next_of("error", "answer.delta"))["type"] == "answer.delta"
        key = limited["x-api-key"].split("_")[1]
        principal = Principal(PrincipalKind.API_KEY, key, frozenset())
        left = await sync_to_async(lambda: take(buckets_of(principal, ""), 1).levels[0].left)()
        assert left == pytest.approx(1, abs=0.01)
    await sessions.end_all()


async def test_a_session_of_somebody_who_lost_the_right_ends_at_once(runbook: None, settings: Settings) -> None:
    settings.ENABLE_API_KEYS = True
    key, other = [
        await sync_to_async(lambda name=name: keys.create_key(name, [Scope.VOICE], actor=SYSTEM).text)()
        for name in ("theirs", "another")
    ]
    async with talking({"x-api-key": key}) as talker, talking({"x-api-key": other}) as thief:
        await talker.start()
        await thief.tell("session.start", versions=[1], resume=talker.token)
        assert (await thief.next_of("problem"))["problem"]["status"] == 404
        await sync_to_async(keys.revoke_key)(key.split("_")[1], actor=SYSTEM)
        assert await talker.closed() == 4401
    await sessions.end_all()
    assert sessions.open_sessions() == 0


def conversations_kept() -> list[dict[str, Any]]:
    return [conversations.export(one) for one in Conversation.objects.order_by("created_at")]


async def test_what_was_heard_is_kept_with_its_citations_until_somebody_deletes_it(runbook: None) -> None:
    async with talking() as talker:
        await talker.start()
        await talker.tell("input.text", text="What are slow queries?")
        whole = (await talker.end_of_turn())["heard"]
        kept = await talker.next_of("transcript.kept")
        talker.plays = False
        await talker.tell("input.text", text="Tell me about slow queries once more.")
        await talker.state("speaking")
        await talker.tell("audio.ack", position=talker.position + 8000)
        await talker.tell("stop")
        cut = (await talker.end_of_turn())["heard"]
    await sessions.end_all()
    (conversation,) = await sync_to_async(conversations_kept)()
    assert conversation["id"] == kept["conversation"]
    assert conversation["title"] == "What are slow queries?"
    first, second = conversation["turns"]
    answer = first["answers"]["left"]["answer"]
    assert " ".join(answer["text"].split()) == whole
    assert answer["citations"][0]["document_id"] == "runbook"
    assert second["answers"]["left"]["state"] == "stopped"
    assert " ".join(second["answers"]["left"]["answer"]["text"].split()) == cut
    assert 0 < len(cut) < len(whole)
    found = await sync_to_async(lambda: list(conversations.conversations_of(LOOPBACK, "slow queries")))()
    assert [str(one.pk) for one in found] == [conversation["id"]]
    await sync_to_async(conversations.delete)(found[0], LOOPBACK)

    async with talking() as talker:
        await talker.start(keep_transcript=False)
        await talker.tell("input.text", text="What are slow queries?")
        await talker.end_of_turn()
    await sessions.end_all()
    assert not await sync_to_async(conversations_kept)()


async def test_its_stages_are_spans_of_the_sockets_trace(runbook: None) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("tests")

    def traced(application: Any) -> Any:
        async def call(*arguments: Any) -> None:
            with tracer.start_as_current_span("socket"):
                await application(*arguments)

        return call

    def open_call(call: ModelCall) -> AbstractContextManager[object]:
        return tracer.start_as_current_span(f"call {call.kind}")

    trace_stages(tracer.start_as_current_span)
    trace_calls(open_call)
    try:
        async with talking(around=traced) as talker:
            await talker.start()
            await talker.say(pcm_of("slow-queries"))
            await talker.end_of_turn()
        await sessions.end_all()
    finally:
        trace_stages(None)
        trace_calls(None)
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert {"socket", "vad", "stt", "embed", "generation", "tts"} <= set(spans)
    traces = {name: span.context.trace_id for name, span in spans.items() if span.context is not None}
    assert [name for name in traces if traces[name] != traces["socket"]] == []
    ids = {span.context.span_id: span.name for span in exporter.get_finished_spans() if span.context is not None}
    for kind in ("stt", "tts"):
        parent = spans[f"call {kind}"].parent
        assert parent is not None
        assert ids[parent.span_id] == kind


async def test_sound_may_be_opus_in_both_directions(talker: Talker) -> None:
    started = await talker.start(input_format="opus", output_format="opus")
    assert (started["input_format"], started["output_format"], started["output_rate"]) == ("opus", "opus", 48_000)
    encode = OpusEncoder(16_000)
    for packet, _ in encode(silence(320) + pcm_of("slow-queries") + silence(640), is_last=True):
        talker.sequence += 1
        await talker.send_frame(FRAME.pack(AUDIO_IN, 0, 0, talker.sequence) + packet)
    assert "slow queries" in (await talker.next_of("transcript.final"))["text"]
    ended = await talker.end_of_turn()
    assert ended["outcome"] == "heard"
    assert len(talker.packets) > 50
    decode = OpusDecoder()
    assert level_of(b"".join(map(decode, talker.packets))) > -40
    complaint = asyncio.create_task(talker.next_of("error"))
    while not complaint.done():  # it is told once in two seconds, and sound that came too fast may just have been
        talker.sequence += 1
        await talker.send_frame(FRAME.pack(AUDIO_IN, 0, 0, talker.sequence) + b"\xff\xff\xff")
        await asyncio.sleep(0.05)
    assert (await complaint)["code"] == "audio-dropped"
