"""What decides an answer, and that all of it is in the cache keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from models_registry import weights
from models_registry.live import view
from models_registry.models import Deployment
from ops.contracts.principal import SYSTEM, Principal
from ops.contracts.problems import NotFound, Unavailable
from rag.models import Collection, EmbeddingSpace
from rag.pipeline.query import SearchRequest, fingerprint
from rag.pipeline.snapshot import FUSION_FIELDS, PipelineSnapshot, resolve
from tests.rag.pipeline.support import SNAPSHOT, person, put

REQUEST = SearchRequest(query="drag", collection="c", top_k=10)

AFTER_SCORES = {"collection", "top_k", "offset", "group_by", "explain"}
"""Fields of a request that only the last stages read; the snapshot names the collection."""


def others(kind: Any, value: Any) -> Iterator[Any]:
    """Other values of a type, near to the given one."""
    if is_dataclass(kind):
        for field, changed in changes_of(value):
            yield replace(value, **{field: changed})
    elif kind is bool:
        yield not value
    elif kind in {int, float}:
        yield from (value + 1, -value - 1)
    elif kind is str:
        yield from (value + "x", value.upper() + "!", "")
    elif get_origin(kind) is tuple:
        yield from ((*value, "x"), ("x",), ("x", "y"), ("xy",), ()) if value else (("x",), ("x", "y"))
    elif NoneType in get_args(kind):
        empty: Any = () if get_origin(get_args(kind)[0]) is tuple else None
        inner = get_args(kind)[0]
        if value is not None:
            yield None
            yield from others(inner, value)
        elif empty is not None:
            yield empty
            yield from others(inner, empty)
        elif get_args(inner):
            yield get_args(inner)[0]
        else:
            yield inner()
    else:
        raise AssertionError(f"say what other values {kind} has")


def changes_of(row: Any) -> Iterator[tuple[str, Any]]:
    """``(field, another value)`` for every field of a dataclass."""
    hints = get_type_hints(type(row))
    for field in fields(row):
        for value in others(hints[field.name], getattr(row, field.name)):
            if value != getattr(row, field.name):
                yield field.name, value


class TestKeys:
    def test_every_field_of_the_snapshot_is_in_the_response_key(self) -> None:
        seen = {SNAPSHOT.response_key(REQUEST)}
        changed = set()
        for field, value in changes_of(SNAPSHOT):
            key = replace(SNAPSHOT, **{field: value}).response_key(REQUEST)
            assert key not in seen, (field, value)
            seen.add(key)
            changed.add(field)
        assert changed == {field.name for field in fields(PipelineSnapshot)}

    def test_every_field_but_those_of_fusion_is_in_the_feature_key(self) -> None:
        own = SNAPSHOT.feature_key(REQUEST)
        changed = {
            field
            for field, value in changes_of(SNAPSHOT)
            if replace(SNAPSHOT, **{field: value}).feature_key(REQUEST) != own
        }
        assert changed == {field.name for field in fields(PipelineSnapshot)} - FUSION_FIELDS

    def test_every_field_of_the_request_is_in_the_response_key(self) -> None:
        seen = {SNAPSHOT.response_key(REQUEST)}
        changed = set()
        for field in fields(SearchRequest):
            for value in {
                "query": ["lift", "Drag", "drag "],
                "collection": ["d", None],
                "top_k": [11, 1],
                "offset": [1, 10],
                "filters": [
                    {"year": 1},
                    {"year": "1"},
                    {"year": True},
                    {"year": [1, 2]},
                    {"year": None},
                    {"1": "year"},
                ],
                "group_by": ["document"],
                "explain": [True],
            }[field.name]:
                key = SNAPSHOT.response_key(replace(REQUEST, **{field.name: value}))
                assert key not in seen, (field.name, value)
                seen.add(key)
                changed.add(field.name)
        assert changed == {field.name for field in fields(SearchRequest)}

    def test_requests_that_differ_only_in_what_is_shown_share_their_scores(self) -> None:
        own = SNAPSHOT.feature_key(REQUEST)
        shown = replace(REQUEST, collection=None, top_k=3, offset=7, group_by="document", explain=True)
        assert SNAPSHOT.feature_key(shown) == own
        scored = {field.name for field in fields(SearchRequest)} - AFTER_SCORES
        assert scored == {"query", "filters"}
        assert SNAPSHOT.feature_key(replace(REQUEST, query="lift")) != own
        assert SNAPSHOT.feature_key(replace(REQUEST, filters={"year": 1})) != own

    def test_the_order_of_filters_does_not_matter(self) -> None:
        one = replace(REQUEST, filters={"a": 1, "b": 2})
        assert SNAPSHOT.response_key(one) == SNAPSHOT.response_key(replace(REQUEST, filters={"b": 2, "a": 1}))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text('ab"é,:[]{}'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab:"), inner, max_size=3),
    max_leaves=8,
)


def canonical(value: Any) -> Any:
    """Equal exactly for values that are the same JSON."""
    if isinstance(value, dict):
        return "object", sorted((name, canonical(inner)) for name, inner in value.items())
    if isinstance(value, list):
        return "array", [canonical(inner) for inner in value]
    return type(value).__name__, repr(value)


@given(
    st.dictionaries(st.text("ab:"), json_values, max_size=3), st.dictionaries(st.text("ab:"), json_values, max_size=3)
)
def test_two_fingerprints_are_equal_exactly_when_their_parts_are(first, second) -> None:
    assert (fingerprint(first) == fingerprint(second)) == (canonical(first) == canonical(second))
    assert fingerprint(first) == fingerprint(dict(reversed(first.items())))
    assert len(fingerprint(first)) == 64


@pytest.mark.usefixtures("live_models")
class TestResolving:
    @pytest.fixture
    def collection(self, db: None) -> Collection:
        return Collection.objects.create(slug="c", generation=7, access_epoch=3, text_configuration="simple")

    def test_it_takes_the_collection_as_it_is_now(self, collection: Collection, settings: Settings) -> None:
        settings.REGISTRY_REFRESH_INTERVAL_MS = 3_600_000  # the registry's view is not due meanwhile
        resolve("c", SYSTEM)
        with CaptureQueriesContext(connection) as queries:
            snapshot = resolve("c", SYSTEM).snapshot
        assert len(queries) == 0  # the hot cursor's are not counted
        assert (snapshot.generation, snapshot.access_epoch, snapshot.text_configuration) == (7, 3, "simple")
        assert snapshot.collection_id == collection.id
        assert snapshot.ltr_weight + snapshot.conceptual_weight == pytest.approx(1)
        assert snapshot.ranker_kind in {"lightgbm", "linear"}

    def test_it_takes_the_collections_own_weights(self, collection: Collection) -> None:
        weights.change(weights.propose(3, 1), "c", by=SYSTEM)
        view.expire()
        assert resolve("c", SYSTEM).snapshot.ltr_weight == 0.75
        assert view.weights("other").normalized != (0.75, 0.25)

    @pytest.mark.parametrize("slug", ["unknown", "", "c\n", "C"])
    def test_an_unknown_collection_is_not_found(self, collection: Collection, slug: str) -> None:
        with pytest.raises(NotFound, match="There is no collection"):
            resolve(slug, SYSTEM)

    def test_one_that_may_not_be_touched_looks_as_one_that_is_not_there(self, collection: Collection) -> None:
        stranger = replace(person("kim"), collections=frozenset({"d"}))
        with pytest.raises(NotFound) as forbidden:
            resolve("c", stranger)
        with pytest.raises(NotFound) as missing:
            resolve("e", stranger)
        assert str(forbidden.value).replace("'c'", "'e'") == str(missing.value)

    def test_without_weights_or_models_it_is_unavailable(self, collection: Collection) -> None:
        Deployment.objects.filter(slot="weights").delete()
        view.reset()
        with pytest.raises(Unavailable, match="seed"):
            resolve("c", SYSTEM)

    def groups_of(self, principal: Principal) -> tuple[str, ...] | None:
        return resolve("c", principal).snapshot.groups

    def test_groups_matter_only_where_something_is_withheld(
        self, collection: Collection, space: EmbeddingSpace
    ) -> None:
        kim = person("kim", "staff", "board")
        put(collection, space, "open", "words for all")
        assert self.groups_of(kim) is None
        put(collection, space, "guarded", "words for some", access_groups=["owners"])
        assert self.groups_of(kim) == ("board", "staff")
        assert self.groups_of(person("lee")) == ()
        assert self.groups_of(SYSTEM) is None
        put(collection, space, "guarded", "words for some")
        assert self.groups_of(kim) is None
        Collection.objects.update(default_access_groups=["owners"])
        assert self.groups_of(kim) == ("board", "staff")
