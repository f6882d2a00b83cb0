"""Agents: the ones that ship, how they are changed, and in which order their models are tried."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from models_registry.models import Agent, ModelVersion, Selection, Slot, VersionStatus
from models_registry.seeding import StepReporter
from models_registry.statistics import StatisticsUnavailableError, figures, model_subject, tallies
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal
from ops.contracts.problems import Conflict, InvalidRequest, NotFound

logger = logging.getLogger(__name__)

CREATE = declare_action("agent.create", "An agent was made.")
UPDATE = declare_action("agent.update", "An agent was changed.")
DELETE = declare_action("agent.delete", "An agent is gone.")

WINDOW = "5m"
LEAST_CALLS = 3
"""Calls in the window, before its figures say anything."""
MOST_ERRORS = 0.5
"""Share of failed calls from which a model counts as not ready."""

FIELDS = (
    *("name", "description", "persona", "model_order", "selection", "latency_objective_ms", "temperature"),
    *("max_tokens", "context_tokens", "collections", "top_k", "abstains", "voice", "is_default", "is_enabled"),
)

BRITISH = (
    "You write British English: plain words, short sentences, no flattery. You reason before you conclude, and say "
    "what the evidence does not show."
)

SHIPPED: tuple[Mapping[str, Any], ...] = (
    {
        "slug": "quotes",
        "name": "Quotes",
        "description": "Answers in the words of your documents. Needs no model.",
        "model_order": ["extractive"],
        "is_default": True,
    },
    {
        "slug": "leonardo",
        "name": "Leonardo",
        "description": "Analytical, British. Mistral 7B.",
        "persona": f"You are Leonardo, an analytical assistant. {BRITISH}",
        "model_order": ["ollama/mistral:7b", "ollama/mistral:latest", "extractive"],
        "voice": "en-GB",
    },
    {
        "slug": "gemma",
        "name": "Gemma",
        "description": "Clear and friendly. Gemma 3.",
        "persona": "You are Gemma. You explain things clearly and warmly, for somebody who is new to the matter.",
        "model_order": ["ollama/gemma3:4b", "ollama/gemma3:latest", "extractive"],
        "voice": "en-GB",
    },
    {
        "slug": "phi",
        "name": "Phi",
        "description": "Brief and exact. Phi-4 mini.",
        "persona": "You are Phi. You answer in as few words as are exact.",
        "model_order": ["ollama/phi4-mini:latest", "ollama/phi3:latest", "extractive"],
        "voice": "en-GB",
    },
    {
        "slug": "llama",
        "name": "Llama",
        "description": "Thorough, all-round. Llama 3.1.",
        "persona": "You are Llama. You are thorough: you weigh every passage, and order what you say.",
        "model_order": ["ollama/llama3.1:8b", "ollama/llama3.2:latest", "extractive"],
        "voice": "en-GB",
    },
)


@dataclass(frozen=True, slots=True)
class Choice:
    """One of an agent's models with what speaks for or against it; ``reason`` is a sentence."""

    model: str
    is_ready: bool
    p95_ms: float | None
    calls: int
    errors: int
    reason: str


Readiness = Callable[[str], str]
"""Why a model can't be asked just now, in a sentence; empty when it can."""

_readiness: Readiness = lambda model: ""  # noqa: E731


def register_readiness(readiness: Readiness) -> None:
    """Whoever calls models says which of them can be called."""
    global _readiness
    _readiness = readiness


def seed_agents(report: StepReporter) -> Mapping[Slot, ModelVersion]:
    """Make the agents that ship, in an installation that has none."""
    if not Agent.objects.exists():
        Agent.objects.bulk_create([Agent(**shipped) for shipped in SHIPPED], ignore_conflicts=True)
    return {}


def find_agent(slug: str | None) -> Agent | None:
    """An enabled agent, or without a name the default one; ``None`` when there is none."""
    enabled = Agent.objects.filter(is_enabled=True)
    return enabled.filter(is_default=True).first() if slug is None else enabled.filter(slug=slug).first()


def get_agent(slug: str) -> Agent:
    """Raises `NotFound`."""
    found = Agent.objects.filter(slug=slug).first()
    if found is None:
        raise NotFound(f"There is no agent '{slug}'. GET /registry/agents lists them.")
    return found


def save_agent(agent: Agent, principal: Principal) -> Agent:
    """Check and store an agent; a new default replaces the one before. Raises `InvalidRequest`, `Conflict`."""
    is_new = agent.pk is None
    try:
        agent.full_clean(validate_unique=False, validate_constraints=False)
    except ValidationError as error:
        faults = {name: " ".join(messages) for name, messages in error.message_dict.items()}
        raise InvalidRequest(": ".join(next(iter(faults.items()))), errors=faults) from error
    if bad := [model for model in agent.model_order if not is_reference(model)]:
        fault = f"'{bad[0]}' names no model: write extractive, ollama/NAME or openai/NAME."
        raise InvalidRequest(f"model_order: {fault}", errors={"model_order": fault})
    try:
        with transaction.atomic():
            if agent.is_default:
                Agent.objects.filter(is_default=True).exclude(pk=agent.pk).update(is_default=False)
            agent.save()
            action = CREATE if is_new else UPDATE
            audit.record(principal, action, agent.slug, {n: getattr(agent, n) for n in FIELDS})
    except IntegrityError as error:
        raise Conflict(f"There is an agent '{agent.slug}' already.") from error
    return agent


def delete_agent(agent: Agent, principal: Principal) -> None:
    with transaction.atomic():
        audit.record(principal, DELETE, agent.slug)
        agent.delete()


def is_reference(model: str) -> bool:
    """Whether it has the form of a model's name here."""
    kind, _, name = model.partition("/")
    return model == "extractive" or (kind in {"ollama", "openai"} and bool(name.strip()))


def choices(agent: Agent) -> list[Choice]:
    """The agent's models in the order in which they are tried, each with the reason for its place.

    ``declared``: as they are. ``objective``: first what is ready and within the objective (or has no figures yet),
    then what is ready and slower, fastest first, then what is not ready; the declared order decides ties, and the last
    declared model stays last as long as another is ready, as it is what one falls back to.
    """
    found = [_choice(model, measured) for model, measured in _measured(agent.model_order)]
    if agent.selection != Selection.OBJECTIVE or len(found) < 2:
        return found
    *preferred, last = found
    return [*sorted(preferred, key=lambda one: _place(one, agent.latency_objective_ms)), last]


def not_downloaded(models: Sequence[str]) -> set[str]:
    """Those of Ollama's that its servers did not have when the registry looked last; none where there is no server."""
    wanted = {model for model in models if model.startswith("ollama/")}
    if not wanted or not settings.REGISTRY_OLLAMA_URLS:
        return set()
    there = ModelVersion.objects.filter(model__name__in=wanted).exclude(status=VersionStatus.MISSING)
    return wanted - set(there.values_list("model__name", flat=True))


def _place(choice: Choice, objective_ms: int | None) -> tuple[int, float]:
    if not choice.is_ready:
        return 2, 0.0
    if objective_ms is None or choice.p95_ms is None or choice.p95_ms <= objective_ms:
        return 0, 0.0
    return 1, choice.p95_ms


def _choice(model: str, measured: tuple[int, int, float | None]) -> Choice:
    calls, errors, p95_ms = measured
    why_not = _readiness(model)
    if not why_not and calls >= LEAST_CALLS and errors / calls > MOST_ERRORS:
        why_not = f"{errors} of its {calls} calls in the last five minutes failed."
    if why_not:
        reason = why_not
    elif p95_ms is not None and calls >= LEAST_CALLS:
        reason = f"Ready; 95 of 100 answers within {p95_ms:.0f} ms in the last five minutes."
    else:
        reason = "Ready; not asked often enough lately to tell how fast."
    return Choice(model, not why_not, p95_ms if calls >= LEAST_CALLS else None, calls, errors, reason)


def _measured(names: Sequence[str]) -> list[tuple[str, tuple[int, int, float | None]]]:
    """By model: calls, errors and the 95th percentile of the last five minutes."""
    subjects = {name: model_subject("llm", name) for name in names}
    try:
        tallied, window_s = tallies(list(subjects.values()), WINDOW)
    except StatisticsUnavailableError:
        return [(name, (0, 0, None)) for name in names]
    measured = []
    for name in names:
        found = figures(tallied[subjects[name]], window_s)
        measured.append((name, (found.calls, found.errors, found.p95_ms)))
    return measured
