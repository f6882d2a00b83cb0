"""``/leonardo/*`` with the real engines."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from ops.contracts import model_calls
from ops.contracts.model_calls import ModelCall
from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from tests.voice.sounds import SPOKEN, pcm_of, tone
from tests.voice.test_sounds import KINDS, encoded
from voice import installed, metrics, sounds
from voice.engines.contracts import BYTES_PER_MS

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module", autouse=True)
def _engines_end_with_the_module() -> Iterator[None]:
    yield
    installed.close_engines()
    sounds.pool.close()


@pytest.fixture
def local(live_models: None, empty_cache: None, keys_off: None, settings: Settings) -> Client:
    settings.VOICE_STT_PROCESSES = 1
    return Client(SERVER_NAME="127.0.0.1", raise_request_exception=False)


QUESTION = (SPOKEN / "slow-queries.wav").read_bytes()


def test_it_says_a_text_as_wav_opus_and_as_a_stream(local: Client) -> None:
    def say(**body: str) -> tuple[str, bytes]:
        answer = local.post("/leonardo/speak", {"text": "Look at the cache [1]. Then wait."} | body, "application/json")
        assert answer.status_code == 200, answer.content
        return answer["Content-Type"], answer.getvalue()

    media, wav = say()
    assert (media, sounds.format_of(wav)) == ("audio/wav", "wav")
    media, opus = say(audio="opus")
    assert (media, sounds.format_of(opus)) == ("audio/ogg", "ogg")
    assert len(opus) < len(wav) / 3
    media, pcm = say(audio="pcm", voice="en-gb", manner="teaching")
    assert media == "audio/L16;rate=22050;channels=1"
    assert len(pcm) > 22_050


def test_hearing_and_speaking_are_calls_of_their_models(local: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[ModelCall] = []
    monkeypatch.setattr(model_calls, "_sinks", [calls.append])
    assert local.post("/leonardo/speak", {"text": "Wait."}, "application/json").getvalue()
    heard = local.post("/leonardo/listen", QUESTION, "audio/wav").json()
    spoke, listened = calls
    assert (spoke.kind, spoke.name, spoke.operation, spoke.items, spoke.error) == ("tts", "espeak-ng", "speak", 1, "")
    assert (listened.kind, listened.model, listened.operation) == ("stt", heard["engine"], "transcribe")
    assert listened.duration_ms > 0


def test_an_engine_that_takes_anothers_place_is_called_by_its_own_version() -> None:
    assert metrics.model_of("pocketsphinx@1, as whisper@2 can't be used") == "pocketsphinx@1"


@pytest.mark.parametrize(
    ("body", "status"),
    [({"text": "hello", "voice": "nobody"}, 400), ({"text": "[1]"}, 422), ({}, 400), ({"text": "x" * 6000}, 400)],
)
def test_what_can_not_be_said_is_a_problem(local: Client, body: dict[str, str], status: int) -> None:
    answer = local.post("/leonardo/speak", body, "application/json")
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"


def test_it_hears_what_is_said_in_a_file(local: Client) -> None:
    answer = local.post("/leonardo/listen", QUESTION, "audio/wav")
    assert answer.status_code == 200, answer.content
    heard = answer.json()
    assert "slow queries" in heard["text"]
    assert heard["engine"].startswith("pocketsphinx@")
    assert [word["text"] for word in heard["words"]] == heard["text"].split()


@pytest.mark.parametrize(
    ("kind", "media"),
    [("ogg", "audio/ogg"), ("webm", "audio/webm"), ("mp3", "audio/mpeg"), ("flac", "audio/flac"), ("wav", "audio/wav")],
)
def test_it_hears_every_format_and_refuses_half_of_it(local: Client, kind: str, media: str) -> None:
    pcm = pcm_of("restart-server")
    data = encoded(kind, KINDS[kind], pcm)
    answer = local.post("/leonardo/listen", data, media)
    assert answer.status_code == 200, answer.content
    heard = answer.json()
    # What a lossy codec leaves is heard as something else.
    assert heard["text"]
    assert abs(heard["audio_ms"] - len(pcm) / BYTES_PER_MS) < 150
    answer = local.post("/leonardo/listen", data[: len(data) // 2], media)
    assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
    assert "cut off" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        (b"this is no sound", "audio/wav", 415),
        (b"", "audio/wav", 415),
        (QUESTION[:50], "audio/wav", 422),
        (b"OggS" + bytes(200), "audio/ogg", 422),
        (QUESTION, "text/plain", 415),
    ],
)
def test_a_file_that_can_not_be_heard_is_a_problem(local: Client, body: bytes, media: str, status: int) -> None:
    answer = local.post("/leonardo/listen", body, media)
    assert answer.status_code == status
    assert answer["Content-Type"] == "application/problem+json"


def test_too_large_and_too_long_files_are_refused(local: Client, settings: Settings) -> None:
    settings.VOICE_UPLOAD_MAX_BYTES = 2000
    assert local.post("/leonardo/listen", QUESTION, "audio/wav").status_code == 413
    settings.VOICE_UPLOAD_MAX_BYTES = 10_000_000
    settings.VOICE_UPLOAD_MAX_S = 1
    assert local.post("/leonardo/listen", sounds.wav_of(tone(1500), 16_000), "audio/wav").status_code == 422
    assert local.post("/leonardo/listen?collection=nowhere", QUESTION, "audio/wav").status_code == 404


def test_it_listens_thinks_and_speaks_in_one_call(local: Client) -> None:
    collection = Collection.objects.create(slug="runbooks")
    text = "The runbook says that slow queries are listed in the table of the slowest ones."
    run = start_run(collection, [Offer("runbook", text.encode())], SYSTEM, "command", enqueue=False)
    while process_batch(run.id):
        pass
    thought = local.post(
        "/leonardo/think", {"query": "What about slow queries?", "collection": "runbooks"}, "application/json"
    ).json()
    assert thought["citations"][0]["document_id"] == "runbook"
    answer = local.post("/leonardo/analyze?collection=runbooks&audio=opus", QUESTION, "audio/wav")
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert "slow queries" in body["transcript"]["text"]
    assert body["answer"]["passages"][0]["document_id"] == "runbook"
    assert "[" not in body["spoken"]
    assert sounds.format_of(base64.b64decode(body["audio"])) == "ogg"


def test_it_tells_what_hears_and_speaks(local: Client) -> None:
    status = local.get("/leonardo/status").json()
    assert [engine["slot"] for engine in status["engines"]] == ["vad", "stt", "tts", "interruption"]
    assert all(engine["model"] for engine in status["engines"])
    assert "en-gb" in status["voices"]
    assert status["sessions"] <= status["capacity"]
