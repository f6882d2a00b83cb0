"""A few documents about bees and boats that answers are made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from models_registry.live import view
from models_registry.models import Agent
from rag.answers.backends import http
from rag.models import Collection
from tests.patience import PATIENCE_S
from tests.rag.answers.model_server import ModelServer
from tests.rag.pipeline.support import Text, fill

DOCUMENTS = {
    "mites": Text(
        "Varroa mites weaken a hive. Oxalic acid in winter kills the mites while there is no brood. "
        "Treat again in summer with formic acid, after the honey has been taken.",
        "Mites",
    ),
    "waggle": Text(
        "Bees dance in figures of eight to show the way to flowers. The angle of the dance is the angle to the sun.",
        "The waggle dance",
    ),
    "queen": Text(
        "The queen lays up to two thousand eggs a day in early summer. She lives for three years.", "The queen"
    ),
    "anchor": Text(
        "Let out chain of four times the depth before the anchor holds. Check it by a bearing.", "Anchoring"
    ),
    "reef": Text("Reef the mainsail early, before the wind has made it hard.", "Reefing"),
    "tax": Text("Income tax for the self-employed is due at the end of January.", "Tax"),
    "secret": Text("The apiary's safe opens with oxalic seventeen mites.", "Safe", access_groups=("keepers",)),
}


@pytest.fixture(scope="module")
def bees(module_transaction: None, embedded_stack: object) -> Collection:
    view.expire()
    collection = Collection.objects.create(slug="bees")
    fill(collection, DOCUMENTS)
    return collection


@pytest.fixture
def server(settings: Any) -> Iterator[ModelServer]:
    settings.OPS_OUTGOING_ALLOWED = ("127.0.0.1",)
    settings.RAG_MODEL_CONNECT_TIMEOUT_S = settings.RAG_MODEL_FIRST_TOKEN_TIMEOUT_S = PATIENCE_S
    http.forget_breakers()
    made = ModelServer()
    yield made
    made.close()
    http.forget_breakers()


@pytest.fixture
def agents(db: None, settings: Any, server: ModelServer) -> None:
    """The agent ``bee``, whose first model has no server, and whose second is the tests' own."""
    settings.REGISTRY_OLLAMA_URLS = (server.url,)
    settings.REGISTRY_OPENAI_URLS = ()
    Agent.objects.filter(slug="bee").delete()
    Agent.objects.create(
        slug="bee", name="Bee", persona="You are a bee.", model_order=["openai/none", "ollama/mistral:7b", "extractive"]
    )
