"""Real engines, started once for a test process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from pytest_django.fixtures import Settings

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from tests.voice import tiny_piper, tiny_whisper
from tests.voice.client import Talker, talking
from voice import installed, sessions
from voice.engines import espeak
from voice.engines.contracts import SpeechToText, TextToSpeech
from voice.engines.listening import ListeningPool
from voice.engines.piper import engine as piper_engine
from voice.engines.speaking import SpeakingPool
from voice.engines.whisper import engine as whisper_engine


@pytest.fixture(scope="session")
def ears() -> Iterator[SpeechToText]:
    engine = ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few hundred kilobytes for the real faster-whisper."""
    return tiny_whisper.make(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="session")
def whisper(whisper_folder: Path) -> Iterator[SpeechToText]:
    engine = whisper_engine(whisper_folder, tiny_whisper.PARAMETERS)
    yield engine
    engine.close()


@pytest.fixture(params=["pocketsphinx", "faster-whisper"])
def any_ears(request: pytest.FixtureRequest) -> SpeechToText:
    """Each engine in turn, for what all of them must do."""
    engine: SpeechToText = request.getfixturevalue({"pocketsphinx": "ears"}.get(request.param, "whisper"))
    return engine


@pytest.fixture(scope="session")
def mouth() -> Iterator[TextToSpeech]:
    engine = SpeakingPool("espeak-ng", espeak.MODULE, voices=tuple(espeak.VOICES), sample_rate_hz=espeak.SAMPLE_RATE_HZ)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def piper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice of two speakers for the real Piper."""
    return tiny_piper.make(tmp_path_factory.mktemp("piper"))


@pytest.fixture(scope="session")
def piper(piper_folder: Path) -> Iterator[TextToSpeech]:
    engine = piper_engine("tones", piper_folder)
    yield engine
    engine.close()


@pytest.fixture(params=["espeak-ng", "piper"])
def any_mouth(request: pytest.FixtureRequest) -> TextToSpeech:
    """Each engine in turn, for what all of them must do."""
    engine: TextToSpeech = request.getfixturevalue({"espeak-ng": "mouth"}.get(request.param, "piper"))
    return engine


@pytest.fixture
def keys_off(settings: Settings) -> None:
    settings.ENABLE_API_KEYS = False
    settings.ALLOW_ANONYMOUS = False


RUNBOOK = (
    "When queries are slow, look at the dashboard first. The cache of answers may be empty after a restart. "
    "The runbook says that slow queries are listed in the table of the slowest ones. "
    "If the database is busy, stop the indexing worker and wait until the load falls."
)


@pytest.fixture(scope="module")
def _everything_ends_with_the_module(django_db_setup: None) -> Iterator[None]:
    """The engines, and the view of what is live, which the application began to follow when it was imported."""
    yield
    installed.close_engines()
    view.reset()


@pytest.fixture
def runbook(
    _everything_ends_with_the_module: None, live_models: None, empty_cache: None, keys_off: None, settings: Settings
) -> None:
    settings.VOICE_RESUME_S = 30
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
