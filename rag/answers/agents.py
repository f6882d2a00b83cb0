"""Who answers: an agent of the registry as answering needs it."""

from __future__ import annotations

from dataclasses import dataclass

from models_registry.agents import choices, find_agent
from models_registry.models import Agent
from ops.contracts.problems import Forbidden, NotFound
from rag.answers.backends.base import BackendRefusedError
from rag.answers.backends.registry import backend_of, is_left_alone
from rag.answers.contracts import EXTRACTIVE


@dataclass(frozen=True, slots=True)
class AgentView:
    """``models``: ``extractive``, ``ollama/<name>`` or ``openai/<name>``, in the order in which they are tried."""

    slug: str
    name: str
    persona: str
    models: tuple[str, ...]
    temperature: float = 0.2
    max_tokens: int = 512
    context_tokens: int = 4096
    collections: tuple[str, ...] = ()
    top_k: int | None = None
    abstains: bool = True
    voice: str = ""

    def collection_for(self, asked: str | None, default: str) -> str:
        """What to search. Raises `Forbidden` for a collection that the agent does not answer from."""
        if asked is None:
            return self.collections[0] if self.collections else default
        if self.collections and asked not in self.collections:
            raise Forbidden(
                f"{self.name} does not answer from '{asked}', only from {', '.join(self.collections)}. "
                "Choose another agent or collection."
            )
        return asked


QUOTES = AgentView(slug=EXTRACTIVE, name="Quotes", persona="", models=(EXTRACTIVE,))
"""Always there, also where the registry's agents have all been removed."""


def agent_of(slug: str | None) -> AgentView:
    """The enabled agent of that name; without one the default. Costs a query. Raises `NotFound`."""
    if slug == EXTRACTIVE:
        return QUOTES
    found = find_agent(slug)
    if found is not None:
        return _view(found)
    if slug is None:
        return QUOTES
    raise NotFound(f"There is no agent '{slug}'. GET /registry/agents lists them.")


def all_agents() -> tuple[AgentView, ...]:
    """Every agent that can be named, the default one first."""
    found = [_view(agent) for agent in Agent.objects.filter(is_enabled=True)]
    return (*found, QUOTES)


def why_not_ready(model: str) -> str:
    """Why a model can't be asked just now; empty when it can, as far as this process knows."""
    try:
        backend_of(model)
    except BackendRefusedError as error:
        return str(error)
    return "Its server is left alone for some seconds, as it failed." if is_left_alone(model) else ""


def _view(agent: Agent) -> AgentView:
    return AgentView(
        slug=agent.slug,
        name=agent.name,
        persona=agent.persona,
        models=tuple(one.model for one in choices(agent)) if len(agent.model_order) > 1 else tuple(agent.model_order),
        temperature=agent.temperature,
        max_tokens=agent.max_tokens,
        context_tokens=agent.context_tokens,
        collections=tuple(agent.collections),
        top_k=agent.top_k,
        abstains=agent.abstains,
        voice=agent.voice,
    )
