"""Real engines, started once for a test process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from pytest_django.fixtures import Settings

from models_registry.live import view
from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from tests.voice.client import Talker, talking
from voice import installed, sessions
from voice.engines import espeak
from voice.engines.contracts import SpeechToText, TextToSpeech
from voice.engines.listening import ListeningPool
from voice.engines.speaking import SpeakingPool


@pytest.fixture(scope="session")
def ears() -> Iterator[SpeechToText]:
    engine = ListeningPool("pocketsphinx", "voice.engines.pocketsphinx_child", size=1)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def mouth() -> Iterator[TextToSpeech]:
    engine = SpeakingPool("espeak-ng", espeak.MODULE, voices=tuple(espeak.VOICES), sample_rate_hz=espeak.SAMPLE_RATE_HZ)
    yield engine
    engine.close()


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
