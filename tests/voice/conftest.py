"""Real engines, started once for a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

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
