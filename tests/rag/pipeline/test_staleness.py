"""Caches never serve stale: whatever changes in whatever order, an answer is the one that would be computed now."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import override_settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from models_registry import deployments, weights
from models_registry.models import GLOBAL_SCOPE, ModelVersion, Slot
from ops.contracts.principal import SYSTEM
from rag.collections import update_collection
from rag.models import Collection
from rag.pipeline.search import SearchRequest, search
from tests.conftest import forget_cached
from tests.rag.pipeline.support import Text, fill, person, remove

NAMES = ["a", "b", "c", "d"]
TEXTS = ["Bees dance for flowers.", "Mites weaken a hive of bees.", "Income tax is due.", "Flowers need rain."]
GROUPS: list[list[str]] = [[], ["staff"], ["board"], ["staff", "board"]]
PEOPLE = [person("nobody"), person("sam", "staff"), person("bo", "board", "staff"), SYSTEM]
RANKERS = ["ltr-default", "ltr-default-linear", "simple"]
REQUESTS: list[dict[str, Any]] = [
    {"query": "bees"},
    {"query": "bees", "explain": True},
    {"query": "bees", "top_k": 1, "offset": 1},
    {"query": "which flowers do bees like", "group_by": "document"},
    {"query": "bees", "filters": {"year": 1}},
    {"query": "tax"},
]
WATCHED = [(PEOPLE[0], REQUESTS[0]), (PEOPLE[1], REQUESTS[1]), (SYSTEM, REQUESTS[0])]
UNCACHED = {"RAG_RESPONSE_CACHE_TTL_S": 0, "RAG_FEATURE_CACHE_TTL_S": 0}


class Interleaving(RuleBasedStateMachine):
    """One collection that everybody changes and asks. All of it is undone at the end."""

    @initialize()
    def begin(self) -> None:
        forget_cached()
        django_settings.RAG_CANDIDATE_DEPTH = 100
        self.savepoint = transaction.savepoint()
        self.collection = Collection.objects.create(slug="changing")
        self.present: set[str] = set()
        for name, text in zip(NAMES, TEXTS, strict=True):
            self.write(name, text, [], 1)

    def teardown(self) -> None:
        if hasattr(self, "savepoint"):
            transaction.savepoint_rollback(self.savepoint)

    @rule(
        name=st.sampled_from(NAMES),
        text=st.sampled_from(TEXTS),
        groups=st.sampled_from(GROUPS),
        year=st.sampled_from([1, 2]),
    )
    def write(self, name: str, text: str, groups: list[str], year: int) -> None:
        fill(self.collection, {name: Text(text, metadata={"year": year}, access_groups=groups)})
        self.present.add(name)

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.present)))
        remove(self.collection, name)
        self.present.remove(name)

    @rule(groups=st.sampled_from(GROUPS))
    def change_default_groups(self, groups: list[str]) -> None:
        self.collection = update_collection(self.collection, SYSTEM, default_access_groups=groups).collection

    @rule(ltr=st.sampled_from([0, 1, 3]), scope=st.sampled_from(["changing", GLOBAL_SCOPE]))
    def change_weights(self, ltr: int, scope: str) -> None:
        weights.change(weights.propose(ltr, 1), scope, by=SYSTEM)

    @rule(name=st.sampled_from(RANKERS), scope=st.sampled_from(["changing", GLOBAL_SCOPE]))
    def change_ranker(self, name: str, scope: str) -> None:
        deployments.activate(Slot.LTR, ModelVersion.objects.get(model__name=name, number=1), scope, by=SYSTEM)

    @rule(slot=st.sampled_from([Slot.LTR, Slot.WEIGHTS]))
    def end_own_choice(self, slot: Slot) -> None:
        if deployments.live().filter(slot=slot, scope="changing").exists():
            deployments.deactivate(slot, "changing", by=SYSTEM)

    @rule(depth=st.sampled_from([2, 100]))
    def change_depth(self, depth: int) -> None:
        django_settings.RAG_CANDIDATE_DEPTH = depth

    @rule(person=st.sampled_from(PEOPLE), given=st.sampled_from(REQUESTS))
    def ask(self, person: Any, given: dict[str, Any]) -> None:
        self.compare(person, given)
        assert self.compare(person, given) == "full"

    @invariant()
    def watched_answers_are_up_to_date(self) -> None:
        """Asked before and after every change, so that each change meets answers that were cached just before."""
        if hasattr(self, "collection"):
            for person, given in WATCHED:
                self.compare(person, given)

    def compare(self, person: Any, given: dict[str, Any]) -> str:
        request = SearchRequest(collection="changing", **given)
        answer = search(request, person)
        with override_settings(**UNCACHED):
            fresh = search(request, person)
        assert fresh["cache"] == "none"
        for name in answer.keys() - {"request_id", "timings", "cache"}:
            assert answer[name] == fresh[name], name
        cached: str = answer["cache"]
        return cached


@pytest.mark.usefixtures("live_models", "empty_cache")
def test_cached_answers_equal_computed_ones_in_any_interleaving(settings: Any) -> None:
    settings.REGISTRY_REFRESH_INTERVAL_MS = 0
    run_state_machine_as_test(Interleaving, settings=BOUNDED)


BOUNDED = settings(
    max_examples=8,
    stateful_step_count=12,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
