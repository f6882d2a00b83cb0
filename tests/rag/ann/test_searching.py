"""Searching by a vector index, also where a scan of the table looks cheaper: nothing that matches is lost, whatever the
filter or the groups.
"""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from rag.ann import indexes
from rag.models import AnnConfig
from rag.pipeline import dense
from rag.pipeline.ann import distance, predicate
from rag.pipeline.database import hot_cursor
from rag.pipeline.dense import few, retrieve_dense
from rag.pipeline.eligible import Eligibility
from rag.pipeline.snapshot import plan_of
from rag.pipeline.types import Float32Array
from tests.rag.ann.conftest import CHUNKS, COUNT, DOCUMENTS, KINDS, Large, built
from tests.rag.pipeline.support import snapshot_of, unit_vectors

EVERYTHING = Eligibility(None, {})
DEPTH = 50

pytestmark = pytest.mark.django_db


def search(
    large: Large, config: AnnConfig, query: Float32Array, eligibility: Eligibility = EVERYTHING, depth: int = DEPTH
) -> list[int]:
    snapshot = snapshot_of(large.collection, large.space, candidate_depth=depth, ann=plan_of(config))
    with hot_cursor() as cursor:
        return retrieve_dense(cursor, snapshot, eligibility, query).tolist()


def scans(config: AnnConfig) -> int:
    """How often the configuration's index was scanned since it was built, in this transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_get_xact_numscans(to_regclass(%s))", [config.index_name])
        return int(cursor.fetchone()[0])


def share(found: list[int], expected: list[int]) -> float:
    assert len(found) == len(expected)
    return len(set(found) & set(expected)) / len(expected)


@pytest.mark.parametrize("given", KINDS, ids=lambda given: "-".join(map(str, given.values())))
def test_every_kind_of_index_is_used_and_finds_what_is_near(large: Large, given: dict[str, Any]) -> None:
    config = built(large, **given)
    before = scans(config)
    queries = unit_vectors(2, 10)
    shares = [share(search(large, config, query), large.nearest(query, DEPTH)) for query in queries]
    assert scans(config) - before == len(queries)
    assert sum(shares) / len(shares) >= 0.9


def test_what_a_coarse_index_found_is_ordered_by_the_full_vectors(large: Large) -> None:
    config = built(large, precision="half")
    (query,) = unit_vectors(3, 1)
    found = search(large, config, query)
    places = {chunk: place for place, chunk in enumerate(large.nearest(query, COUNT))}
    assert [places[chunk] for chunk in found] == sorted(places[chunk] for chunk in found)


def test_the_trap_is_real_a_plain_index_scan_loses_most_of_a_rare_filter(large: Large) -> None:
    """What the searches below are kept from: the same filter, straight on the index."""
    config = built(large, ef_search=40)
    (query,) = unit_vectors(4, 1)
    snapshot = snapshot_of(large.collection, large.space)
    rare = Eligibility(None, {"number": 7})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT set_config('hnsw.iterative_scan', 'off', true), set_config('hnsw.ef_search', '40', true), "
            "set_config('enable_sort', 'off', true)"
        )
    with hot_cursor() as cursor:
        rows = cursor.rows(
            f"SELECT chunk_id FROM doc_embeddings "
            f"WHERE {predicate(large.collection.id, large.space.id, config.marker)} AND {rare.test} "
            f"ORDER BY {distance('full', snapshot.space.dimension)} LIMIT 10",
            {"query": query, **rare.parameters},
        )
    assert len(rows) < 10
    assert search(large, config, query, rare, depth=10) == large.nearest(query, 10, {7})


@pytest.mark.parametrize("given", KINDS[:4], ids=lambda given: "-".join(map(str, given.values())))
def test_a_rare_filter_is_searched_exactly(large: Large, given: dict[str, Any]) -> None:
    config = built(large, **given)
    before = scans(config)
    for number, query in enumerate(unit_vectors(5, 6)):
        rare = Eligibility(None, {"number": [number, number + 40]})
        assert search(large, config, query, rare, 30) == large.nearest(query, 30, {number, number + 40})
    assert scans(config) == before


def test_a_wide_filter_goes_along_the_index_and_fills_the_list(large: Large, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense, "_ROWS_PER_ROOT", 1.0)  # half of a collection this small are few by themselves
    config = built(large)
    before = scans(config)
    even = set(range(0, DOCUMENTS, 2))
    assert len(even) * CHUNKS > few(COUNT)
    shares = [
        share(search(large, config, query, Eligibility(None, {"even": True})), large.nearest(query, DEPTH, even))
        for query in unit_vectors(6, 10)
    ]
    assert scans(config) - before == 10
    assert sum(shares) / len(shares) >= 0.95


@pytest.mark.parametrize("strategy", ["hnsw", "ivfflat"])
@pytest.mark.parametrize("iterative_scan", ["off", "relaxed_order"])
def test_a_filter_that_lies_far_from_the_query_loses_nothing(large: Large, strategy: str, iterative_scan: str) -> None:
    """All that is near is filtered out: the index runs dry where it may not go on, and the search is made exactly."""
    config = built(large, strategy=strategy, lists=20, probes=1, iterative_scan=iterative_scan)
    query = large.vectors[10]
    far = Eligibility(None, {"half": 1})
    found, others = search(large, config, query, far), set(range(DOCUMENTS // 2, DOCUMENTS))
    assert len(found) == DEPTH
    assert set(found) <= set(large.nearest(query, COUNT, others))
    if iterative_scan == "off":
        assert found == large.nearest(query, DEPTH, others)


def readable(groups: tuple[str, ...]) -> set[int]:
    lists = {n: "board" if n % 40 == 7 else "staff" if n % 2 else None for n in range(DOCUMENTS)}
    return {number for number, group in lists.items() if group is None or group in groups}


@pytest.mark.parametrize("groups", [(), ("staff",), ("board",), ("board", "staff"), ("nobody",)])
@pytest.mark.parametrize("given", KINDS[:4:3], ids=lambda given: given["strategy"])
def test_groups_fill_the_list_and_never_see_more(large: Large, groups: tuple[str, ...], given: dict[str, Any]) -> None:
    config = built(large, **given)
    for query in unit_vectors(7, 4):
        found = search(large, config, query, Eligibility(groups, {}))
        assert share(found, large.nearest(query, DEPTH, readable(groups))) >= 0.9
        allowed = set(large.nearest(query, COUNT, readable(groups)))
        assert set(found) <= allowed


def test_a_closed_collection_shows_a_small_group_all_that_is_its_own(large: Large) -> None:
    type(large.collection).objects.filter(id=large.collection.id).update(default_access_groups=["owners"])
    config = built(large)
    (query,) = unit_vectors(8, 1)
    assert search(large, config, query, Eligibility(("board",), {})) == large.nearest(query, DEPTH, {7, 47})
    assert search(large, config, query, Eligibility(("guests",), {})) == []


def test_a_filter_and_groups_hold_together(large: Large) -> None:
    config = built(large)
    (query,) = unit_vectors(9, 1)
    wanted = Eligibility(("board",), {"half": 0})
    expected = large.nearest(query, DEPTH, readable(("board",)) & set(range(DOCUMENTS // 2)))
    assert share(search(large, config, query, wanted), expected) >= 0.9


def test_a_search_uses_the_index_it_names_though_another_lies_beside_it(large: Large) -> None:
    one, other = built(large), built(large, m=8)
    before = scans(one)
    (query,) = unit_vectors(10, 1)
    search(large, other, query)
    assert (scans(one) - before, scans(other)) == (0, 1)
    search(large, one, query)
    assert (scans(one) - before, scans(other)) == (1, 1)


def test_a_search_whose_index_is_gone_is_exact(large: Large) -> None:
    config = built(large, m=9)
    indexes.drop(config.index_name)
    (query,) = unit_vectors(11, 1)
    assert search(large, config, query) == large.nearest(query, DEPTH)


def test_fewer_vectors_than_asked_for_are_all_found(large: Large) -> None:
    config = built(large, ef_search=10)
    (query,) = unit_vectors(12, 1)
    assert len(search(large, config, query, depth=1000)) == 1000
    assert search(large, config, query, Eligibility(None, {"number": 3}), 1000) == large.nearest(query, CHUNKS, {3})
