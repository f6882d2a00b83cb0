"""The training recipe on three small collections drawn at random, in which overlap with the query decides relevance."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from rag.pipeline.bm25 import bm25_scores
from rag.pipeline.features import SCHEMA_VERSION
from rag.pipeline.ltr import load_ranker
from rag.pipeline.types import FusionWeights
from rag.recipes import ltr
from rag.recipes.ltr import (
    LINEAR_FEATURES,
    LTR_SHARES,
    Group,
    JudgedCollection,
    JudgedQuery,
    Settings,
    fit_linear,
    in_domain,
    means,
    ndcg_of,
    prepare,
    train,
    with_memory,
    write_model,
    zero_shot,
)
from tests.rag.pipeline.candidates import drawn

NAMES = ("first", "second", "third")
QUICK = Settings(FusionWeights(0.8, 0.2), rounds=3)


def collection(name: str, queries: int = 10, documents: int | None = None) -> JudgedCollection:
    judged = []
    for number in range(queries):
        terms, found = drawn(seed=1000 * NAMES.index(name) + number, n=25, documents=documents)
        best = np.argsort(-bm25_scores(terms, found), kind="stable")[:4]
        judged.append(JudgedQuery(f"{name}-{number}", terms, found, {int(found.document_ids[i]): 1 for i in best}))
    return JudgedCollection(name, "0" * 64, judged)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return [group for name in NAMES for group in prepare(collection(name))]


def models(trained: ltr.Trained) -> tuple[bytes, bytes, Settings]:
    return trained.linear.to_bytes(), trained.trees.to_bytes(), trained.settings


def test_an_uncertain_judgement_is_learned_from_less(groups):
    """As many documents as are relevant were clicked on by mistake. The less that is trusted, the better it is learned
    what is relevant.
    """

    def misled(group: Group, weight: float) -> Group:
        others = np.random.default_rng(7).permutation(np.flatnonzero(group.grades == 0))[:8]
        grades, weights = group.grades.copy(), group.weights.copy()
        grades[others], weights[others] = 1, weight
        return replace(group, grades=grades, weights=weights, ideal_gain=ltr._ideal(grades * weights))

    def learned(weight: float) -> float:
        linear = fit_linear([misled(group, weight) for group in groups], QUICK.weights)
        return float(np.mean([ndcg_of(linear, group, QUICK.weights) for group in groups]))

    assert learned(0.01) > learned(1.0)


def test_trees_heed_the_weights_too(groups, monkeypatch):
    monkeypatch.setitem(ltr.TREE_PARAMETERS, "min_data_in_leaf", 20)  # few as these are, trees are to have branches
    linear = fit_linear(groups, QUICK.weights)
    halved = [replace(group, weights=np.where(group.document_ids % 2, 1.0, 0.1)) for group in groups]
    trees = [ltr.fit_trees(some, linear, QUICK).to_bytes() for some in (groups, halved, groups)]
    assert trees[0] == trees[2]
    assert trees[0] != trees[1]


def test_training_twice_gives_the_same_bytes(groups):
    assert models(train(groups)) == models(train(groups))


def test_no_judgement_of_the_target_reaches_the_model_that_is_tested_on_it(groups):
    generator = np.random.default_rng(0)
    relabelled = [
        replace(group, grades=generator.permutation(group.grades)) if group.collection == "first" else group
        for group in groups
    ]
    honest, _ = zero_shot(groups)
    other, _ = zero_shot(relabelled)
    assert models(honest["first"]) == models(other["first"])
    assert models(honest["second"]) != models(other["second"])


@pytest.mark.parametrize("fold", range(2))
def test_no_judgement_of_a_held_out_query_reaches_the_model_or_the_memory_that_it_is_tested_with(groups, fold):
    generator = np.random.default_rng(fold)
    own = [group for group in groups if group.collection == "second"]
    held_out, rest = ltr._by_query(own, 5)[fold]
    names = {group.query_id for group in held_out}
    others = [group for group in groups if group.collection != "second"]
    relabelled = [
        replace(
            group,
            grades=generator.permutation(group.grades),
            relevant=np.sort(generator.permutation(group.document_ids)[:7]),
        )
        if group.query_id in names
        else group
        for group in own
    ]
    other_held_out, other_rest = ltr._by_query(relabelled, 5)[fold]
    assert {group.query_id for group in other_held_out} == names
    assert models(train([*others, *rest], QUICK)) == models(train([*others, *other_rest], QUICK))
    for group, other in zip(with_memory(held_out, rest), with_memory(other_held_out, other_rest), strict=True):
        assert np.array_equal(group.features.values, other.features.values)


def test_a_query_remembers_the_others_and_not_itself(groups):
    own = [group for group in groups if group.collection == "second"]
    changed = [replace(own[0], relevant=own[0].document_ids.copy()), *own[1:]]
    column = ltr.COLUMN["memory"]
    before = [group.features.values[:, column] for group in with_memory(own, own)]
    after = [group.features.values[:, column] for group in with_memory(changed, changed)]
    assert np.array_equal(before[0], after[0])
    assert not all(np.array_equal(one, other) for one, other in zip(before[1:], after[1:], strict=True))


def test_other_collections_are_not_remembered(groups):
    first = [group for group in groups if group.collection == "first"]
    others = [group for group in groups if group.collection != "first"]
    assert not any(group.features.values[:, ltr.COLUMN["memory"]].any() for group in with_memory(first, others))


def test_memory_leaves_the_ranker_of_a_collection_without_judgements_as_it_was(groups):
    linear = fit_linear(groups, QUICK.weights)
    remembering = ltr.fit_memory(groups, linear, QUICK.weights)
    assert remembering.weights[ltr.COLUMN["memory"]] > 0
    for group in groups:
        assert np.array_equal(remembering.score(group.features), linear.score(group.features))


def test_a_step_up_ships_only_when_it_is_significantly_better():
    generator = np.random.default_rng(3)
    base = dict(enumerate(generator.uniform(0.2, 0.8, 60).tolist()))

    def rows(linear: float, trees: float) -> ltr.Scores:
        better = {"linear": linear, "lightgbm": linear + trees}
        noise = {row: generator.normal(0, 0.05, 60) for row in (*ltr.SIMPLE_ROWS, *better)}
        return {
            row: {"c": {str(q): value + better.get(row, 0) + noise[row][q] for q, value in base.items()}}
            for row in noise
        }

    assert ltr.best_kind(rows(0.1, 0.1)) == "lightgbm"
    assert ltr.best_kind(rows(0.1, 0.0)) == "linear"
    assert ltr.best_kind(rows(0.0, 0.0)) == "simple"
    assert ltr.best_kind(rows(-0.1, 0.0)) == "simple"


def test_the_ablation_names_every_part_and_begins_with_the_whole(groups):
    found = ltr.ablation(groups)
    assert next(iter(found)) == ltr.FULL
    assert {f"without {name}" for name in LINEAR_FEATURES} < set(found)
    assert {"without safeguard", "without fitting", "without ranker", "without fusion with the cosine"} < set(found)
    assert {len(of_collection) for row in found.values() for of_collection in row.values()} == {10}


def test_no_held_out_query_is_in_its_own_training_set(groups, monkeypatch):
    seen: list[set[str]] = []

    def recording(training, settings=None):
        seen.append({group.query_id for group in training})
        return train(training, settings or QUICK)

    monkeypatch.setattr(ltr, "train", recording)
    scores = in_domain(groups, "second")
    own = {group.query_id for group in groups if group.collection == "second"}
    everything = {group.query_id for group in groups}
    held_out = [everything - training for training in seen]
    assert len(held_out) == 5
    assert set().union(*held_out) == own
    assert sum(map(len, held_out)) == len(own)
    assert scores["linear"]["second"].keys() == own


def test_no_document_or_query_identity_reaches_the_model(groups):
    renamed = [
        replace(
            group,
            query_id=f"other {number}",
            chunk_ids=group.chunk_ids + 10_000,
            document_ids=group.document_ids + 77_000,
            relevant=group.relevant + 77_000,
        )
        for number, group in enumerate(groups)
    ]
    assert models(train(renamed)) == models(train(groups))


def test_a_ranker_that_is_cut_is_the_one_trained_with_fewer_trees(groups):
    linear = fit_linear(groups, QUICK.weights)
    longer = ltr.fit_trees(groups, linear, Settings(QUICK.weights, rounds=6)).cut(QUICK.rounds)
    for group in groups[:5]:
        expected = ltr.fit_trees(groups, linear, QUICK).score(group.features)
        assert np.array_equal(longer.score(group.features), expected)


def test_the_chosen_weights_leave_both_scores_their_say(groups):
    settings = train(groups).settings
    assert any(settings.weights.ltr == pytest.approx(share) for share in LTR_SHARES)
    assert settings.weights.conceptual >= 0.2 - 1e-9


def test_the_gradient_of_the_smooth_measure_is_that_of_finite_differences(groups):
    generator = np.random.default_rng(1)
    columns = [ltr.COLUMN[name] for name in LINEAR_FEATURES]
    for group in groups[:5]:
        values = group.features.values[:, columns].astype(np.float64)
        point = generator.normal(0.3, 0.2, len(columns))
        _, gradient = ltr._smooth_ndcg(point, values, group, QUICK.weights)
        for axis in range(len(columns)):
            step = np.zeros(len(columns))
            step[axis] = 1e-6
            above, _ = ltr._smooth_ndcg(point + step, values, group, QUICK.weights)
            below, _ = ltr._smooth_ndcg(point - step, values, group, QUICK.weights)
            assert gradient[axis] == pytest.approx((above - below) / 2e-6, abs=1e-3)


def test_fitting_does_not_lower_what_it_maximises(groups):
    fitted = fit_linear(groups, QUICK.weights)
    start = ltr.LinearRanker.of(ltr.START)
    columns = [ltr.COLUMN[name] for name in LINEAR_FEATURES]

    def smooth(ranker: ltr.LinearRanker) -> float:
        return sum(
            ltr._smooth_ndcg(ranker.weights[columns], g.features.values[:, columns].astype(float), g, QUICK.weights)[0]
            for g in groups
        )

    assert smooth(fitted) > smooth(start)


def test_a_document_counts_once_at_the_place_of_its_best_chunk():
    order = np.array([3, 0, 1, 2])
    documents = np.array([7, 8, 9, 7])
    grades = np.array([0.0, 1.0, 2.0, 0.0])
    # Ranking of documents: 7, 8, 9 with gains 0, 1, 2.
    expected = (1 / math.log2(3) + 2 / math.log2(4)) / 3.0
    assert ltr._ndcg(order, documents, grades, ideal=3.0) == pytest.approx(expected)


def test_relevant_documents_that_were_not_retrieved_lower_the_measure():
    judged = collection("first", queries=1).queries[0]
    missed = replace(judged, grades={**judged.grades, **{-1 - number: 1 for number in range(6)}})
    (found,), (short,) = (prepare(JudgedCollection("first", "", [query])) for query in (judged, missed))
    ratio = sum(1 / math.log2(i + 2) for i in range(4)) / sum(1 / math.log2(i + 2) for i in range(10))
    ranker = ltr.LinearRanker.of(ltr.START)
    assert ndcg_of(ranker, short, QUICK.weights) == pytest.approx(ratio * ndcg_of(ranker, found, QUICK.weights))


def test_collections_whose_documents_have_several_chunks_can_be_trained_on():
    several = [group for name in NAMES for group in prepare(collection(name, queries=4, documents=8))]
    _, scores = zero_shot(several)
    assert set(scores) == {"bm25", "dense", "rrf", "convex", "linear", "lightgbm"}


def test_a_query_without_relevant_documents_is_left_out():
    judged = collection("first", queries=2)
    assert len(prepare(replace(judged, queries=[judged.queries[0], replace(judged.queries[1], grades={})]))) == 1


def test_means_give_each_collection_the_same_weight():
    table = means({"row": {"large": {"a": 1.0, "b": 1.0, "c": 1.0}, "small": {"d": 0.0}}})
    assert table == {"row": {"large": 1.0, "small": 0.0, "macro": 0.5}}


def test_a_written_model_is_the_one_that_was_trained(groups, tmp_path):
    trained = train(groups, QUICK)
    for name, ranker in trained.rankers().items():
        write_model(tmp_path, name, ranker, QUICK.weights, "test", {}, {})
        (file,) = [path for path in tmp_path.glob(f"{name}.*") if path.suffix != ".json"]
        again = load_ranker(ranker.kind, file.read_bytes())
        for group in groups[:3]:
            assert group.features.schema_version == SCHEMA_VERSION
            assert np.array_equal(again.score(group.features), ranker.score(group.features))
