"""What can be named as ``model``: agents, agents on a collection (``leonardo@papers``), and the live embedder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from django.conf import settings

from models_registry.live import view
from models_registry.models import Slot
from ops.contracts.principal import Principal
from ops.contracts.problems import NotFound, Unavailable
from rag.answers import agents
from rag.openai_api.errors import ModelNotFound
from rag.pipeline.embed import Embedder
from rag.readable import open_collections
from rag.spaces import embedder_for

OWNER = "zenglow"
AT = "@"
COLLECTIONS_SHOWN = 25


@dataclass(frozen=True, slots=True)
class Named:
    """A line of ``/v1/models``. ``created``: Unix seconds; 0, as a name here means whatever is live."""

    id: str
    created: int = 0


def listed(principal: Principal) -> list[Named]:
    """What the principal may name: each agent, each agent on each open collection, and the embedder."""
    slugs = list(open_collections(principal).order_by("slug").values_list("slug", flat=True)[:COLLECTIONS_SHOWN])
    names = [agent.slug for agent in agents.all_agents()]
    on_collections = [f"{name}{AT}{slug}" for name in names for slug in slugs]
    return [Named(name) for name in (*names, *on_collections, *_embedder_names())]


def find(name: str, principal: Principal) -> Named:
    """The line of one name. Raises `ModelNotFound`."""
    if name in _embedder_names():
        return Named(name)
    agent, collection = agent_and_collection(name)
    if collection is not None and not open_collections(principal).filter(slug=collection).exists():
        raise _unknown(name)
    return Named(f"{agent}{AT}{collection}" if collection else agent)


def agent_and_collection(name: str) -> tuple[str, str | None]:
    """``leonardo@papers`` as agent and collection. Raises `ModelNotFound` for an agent that isn't there."""
    agent, _, collection = name.partition(AT)
    try:
        found = agents.agent_of(agent)
    except NotFound:
        raise _unknown(name) from None
    return found.slug, collection or None


def embedder_of(name: str) -> Embedder:
    """The live embedder, which is the only one whose vectors are compared here. Raises `ModelNotFound`."""
    if name not in _embedder_names():
        raise _unknown(name)
    return embedder_for(settings.RAG_DEFAULT_COLLECTION)


def _embedder_names() -> Iterator[str]:
    """The embedder by its name, and by its name and version."""
    try:
        live = view.model(Slot.EMBEDDER, settings.RAG_DEFAULT_COLLECTION)
    except Unavailable:
        return
    yield live.label.partition("@")[0]
    yield live.label


def _unknown(name: str) -> ModelNotFound:
    return ModelNotFound(f"There is no model {name!r}. GET /v1/models lists them.", errors={"model": "Unknown."})
