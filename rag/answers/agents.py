"""Who answers: an agent's persona, models in the order in which they are tried, and its settings of retrieval."""

from __future__ import annotations

from dataclasses import dataclass

from ops.contracts.problems import NotFound
from rag.answers.contracts import EXTRACTIVE


@dataclass(frozen=True, slots=True)
class AgentView:
    """An agent as answering needs it. ``models``: ``extractive``, ``ollama/<name>`` or ``openai/<name>``, in order."""

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


QUOTES = AgentView(slug=EXTRACTIVE, name="Quotes", persona="", models=(EXTRACTIVE,))
"""The agent that is always there."""


def agent_of(slug: str | None) -> AgentView:
    """The agent of that name; without one the default. Raises `NotFound`."""
    if slug is None or slug == EXTRACTIVE:
        return QUOTES
    raise NotFound(f"There is no agent '{slug}'. GET /registry/agents lists them.")


def all_agents() -> tuple[AgentView, ...]:
    """Every agent that can be named, the default one first."""
    return (QUOTES,)
