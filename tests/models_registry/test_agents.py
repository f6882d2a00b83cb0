"""Agents: the ones that ship, how they are changed, and in which order their models are tried."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from models_registry import agents, statistics
from models_registry.models import Agent, Model, ModelKind, ModelVersion, Selection
from ops import keys
from ops.contracts.model_calls import ModelCall
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Conflict, InvalidRequest
from ops.models import AuditEvent

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("live_models", "empty_cache")]


@pytest.fixture(autouse=True)
def _everything_is_ready(monkeypatch: pytest.MonkeyPatch, embedded_stack: object) -> None:
    monkeypatch.setattr(agents, "_readiness", lambda model: "Away." if "away" in model else "")
    statistics.forget()


def agent(*models: str, **more: Any) -> Agent:
    return Agent(slug="a", name="A", model_order=list(models), **more)


def called(model: str, *durations_ms: float, errors: int = 0) -> None:
    for duration_ms in durations_ms:
        statistics.observe_model_call(ModelCall("llm", model, duration_ms=duration_ms))
    for _ in range(errors):
        statistics.observe_model_call(ModelCall("llm", model, error="Broken"))
    statistics.recorder().flush()


def test_leonardo_gemma_phi_and_llama_ship_and_each_ends_with_quoting() -> None:
    shipped = {one.slug: one for one in Agent.objects.all()}
    assert {"quotes", "leonardo", "gemma", "phi", "llama"} <= set(shipped)
    assert shipped["leonardo"].model_order[0] == "ollama/mistral:7b"
    assert "British" in shipped["leonardo"].persona
    assert all(one.model_order[-1] == "extractive" for one in shipped.values())
    assert [one.slug for one in shipped.values() if one.is_default] == ["quotes"]


def test_an_agent_that_was_removed_does_not_come_back() -> None:
    Agent.objects.filter(slug="phi").delete()
    agents.seed_agents(lambda line: None)
    assert not Agent.objects.filter(slug="phi").exists()


def test_declared_is_the_order_whatever_the_figures_say() -> None:
    called("ollama/slow", 900, 900, 900)
    found = agents.choices(agent("ollama/away", "ollama/slow", "extractive"))
    assert [one.model for one in found] == ["ollama/away", "ollama/slow", "extractive"]
    assert [one.is_ready for one in found] == [False, True, True]


def test_the_objective_prefers_what_is_ready_and_fast_enough() -> None:
    called("ollama/slow", 900, 900, 900)
    called("ollama/slower", 2000, 2000, 2000)
    called("ollama/broken", 10, errors=5)
    order = ("ollama/slower", "ollama/away", "ollama/broken", "ollama/slow", "ollama/new", "extractive")
    found = agents.choices(agent(*order, selection=Selection.OBJECTIVE, latency_objective_ms=500))
    assert [one.model for one in found] == [
        "ollama/new",
        "ollama/slow",
        "ollama/slower",
        "ollama/away",
        "ollama/broken",
        "extractive",
    ]
    assert found[4].reason == "5 of its 6 calls in the last five minutes failed."


def test_a_new_default_takes_the_place_of_the_old() -> None:
    agents.save_agent(agent("extractive", is_default=True), SYSTEM)
    assert list(Agent.objects.filter(is_default=True).values_list("slug", flat=True)) == ["a"]
    assert AuditEvent.objects.filter(action="agent.create", target="a").exists()


def test_a_name_is_taken_once_and_models_have_names() -> None:
    agents.save_agent(agent("extractive"), SYSTEM)
    with pytest.raises(Conflict):
        agents.save_agent(agent("extractive"), SYSTEM)
    with pytest.raises(InvalidRequest, match="names no model"):
        agents.save_agent(Agent(slug="b", name="B", model_order=["gpt"]), SYSTEM)


def test_the_api_makes_changes_and_removes(settings: Any) -> None:
    settings.ENABLE_API_KEYS = True
    key = keys.create_key("test", [Scope.QUERY, Scope.REGISTRY_WRITE], actor=SYSTEM)
    client = Client(headers={"Authorization": f"Bearer {key.text}"})

    def send(method: str, path: str, body: Any = None) -> Any:
        return client.generic(method, path, json.dumps(body), content_type="application/json")

    made = send(
        "POST", "/registry/agents", {"slug": "bee", "name": "Bee", "model_order": ["ollama/away", "extractive"]}
    )
    assert made.status_code == 201, made.content
    assert made.json()["choices"][0]["reason"] == "Away."
    changed = send("PATCH", "/registry/agents/bee", {"temperature": 0.9, "persona": "You are a bee."})
    assert (changed.json()["temperature"], changed.json()["name"]) == (0.9, "Bee")
    assert send("PATCH", "/registry/agents/bee", {"temperature": 9}).status_code == 400
    assert "bee" in [one["slug"] for one in client.get("/registry/agents").json()["agents"]]
    assert send("DELETE", "/registry/agents/bee").status_code == 204
    assert client.get("/registry/agents/bee").status_code == 404


def test_the_admin_says_how_to_get_a_model_that_its_server_does_not_have(settings: Any, admin_client: Client) -> None:
    leonardo = Agent.objects.get(slug="leonardo")
    page = f"/admin/models_registry/agent/{leonardo.pk}/change/"
    assert "answers pull" not in admin_client.get(page).content.decode(), "without a server there is nothing to pull"
    settings.REGISTRY_OLLAMA_URLS = ("http://127.0.0.1:11434",)
    assert "manage.py answers pull mistral:7b</code>" in admin_client.get(page).content.decode()
    there = Model.objects.create(name="ollama/mistral:7b", kind=ModelKind.LLM)
    ModelVersion.objects.create(model=there, number=1)
    assert agents.not_downloaded(leonardo.model_order) == {"ollama/mistral:latest"}
