"""How the rankers are trained and judged: plain functions from judged queries to models and figures.

    prepare → choose (fusion weights and trees, by cross-validation inside the training data) → fit → report

A model is only ever judged on queries that took part neither in fitting nor in choosing: whole collections it never
saw (`zero_shot`), or held-out queries (`in_domain`). All figures are nDCG@10 per query, gain = grade, at document
level, after safeguard and fusion as it is served.

The memory of judgements is fitted last, on top of weights found without it: where nothing is remembered, the ranker
is the one that never knew of it. A query's memory holds the training queries of its collection, never itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

import lightgbm
import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from rag.evaluation.rows import orders
from rag.evaluation.significance import compare as compare
from rag.pipeline.features import COLUMN, FEATURES, SCHEMA_VERSION, extract
from rag.pipeline.fusion import fuse
from rag.pipeline.ltr import LightGbmRanker, LinearRanker, Ranker, SimpleRanker
from rag.pipeline.memory import NEAREST, Memory, remembered
from rag.pipeline.safeguard import score_guarded
from rag.pipeline.types import (
    Candidates,
    FeatureMatrix,
    Float32Array,
    Float64Array,
    FusionWeights,
    Int64Array,
    QueryTerms,
)

DEPTH = 10
SEED = 20
SIGNIFICANCE = 0.05
WITH_MEMORY = " + memory"
FULL = "linear"
SIMPLE_ROWS = ("bm25", "dense", "rrf", "convex")

START = {"peaked_norm": 0.5, "neighbours": 0.5, "likeness_norm": 0.15}
"""Where the linear fit begins and what it is drawn back to: good on its own, so little data can't lead it astray."""
MEMORY_START = {"memory": 1.0}
LINEAR_FEATURES = tuple(START)
"""More features or a weaker pull fit the training collections better and other collections worse."""
LINEAR_PULL = 0.3
TEMPERATURE = 0.02
"""Difference of fused scores that counts as a clear one in the smooth ranks."""
RANK_SOFTNESS = 2.0
"""Ranks over which the cut at `DEPTH` is spread, so that what is just below it still has a gradient."""

LTR_SHARES = (0.8, 0.6)
"""Fusion weights to choose from. Both stay at 0.2 or more: the plain cosine must keep its say."""
NOISE = 0.002
"""Differences of mean nDCG@10 that are no reason to give the learned score less than the largest share."""
ROUNDS = (20, 40, 80)
START_SCALE = 40.0
"""Range of the score that boosting begins from: large against a tree's leaves, so that trees only correct it."""
NOT_MONOTONE = frozenset({"length", "query_length", "agreement", "peak"})
TREE_PARAMETERS = {
    "objective": "lambdarank",
    "lambdarank_truncation_level": 20,
    "learning_rate": 0.05,
    "num_leaves": 6,
    "min_data_in_leaf": 300,
    "lambda_l2": 10.0,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "bagging_by_query": True,
    "max_bin": 63,
    "monotone_constraints": [0 if name in NOT_MONOTONE else 1 for name in FEATURES],
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": SEED,
    "verbose": -1,
}


@dataclass(frozen=True, slots=True)
class JudgedQuery:
    """grades: the relevant documents' grades (at least 1) by `Candidates.document_ids`, unretrieved ones included.

    weights: how sure each of them is, above 0 and at most 1; 1 where none is given. See `rag.feedback`.
    """

    query_id: str
    terms: QueryTerms
    candidates: Candidates
    grades: Mapping[int, int]
    weights: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JudgedCollection:
    """name: its slug; sha256: of its queries and judgements, so that figures on it can be labelled in-sample."""

    name: str
    sha256: str
    queries: Sequence[JudgedQuery]


@dataclass(frozen=True, slots=True)
class Group:
    """One judged query as training sees it. Arrays have one entry a candidate, shape (n,).

    features: without memory. relevant: ids of all its relevant documents, ascending, retrieved or not.
    ideal: the DCG@10 of a perfect ranking; simple: nDCG@10 of each of `SIMPLE_ROWS`.
    weights: how sure each grade is; ideal_gain: as ``ideal``, of grades that count by their weight.
    """

    collection: str
    query_id: str
    features: FeatureMatrix
    query_embedding: Float32Array
    relevant: Int64Array
    conceptual: Float64Array
    conceptual_norm: Float64Array
    chunk_ids: Int64Array
    document_ids: Int64Array
    grades: Float64Array
    weights: Float64Array
    ideal: float
    ideal_gain: float
    simple: Mapping[str, float]

    @property
    def gains(self) -> Float64Array:
        """What training seeks to bring up. Where clicks made the grade its weight holds their inverse propensities, so
        that the gain is an unbiased estimate of what a judge would have said, whatever the position it was shown at
        (Agarwal, Takatsu, Zaitsev and Joachims, "A general framework for counterfactual learning-to-rank", SIGIR 2019).
        """
        return self.grades * self.weights


@dataclass(frozen=True, slots=True)
class Settings:
    """What cross-validation chooses."""

    weights: FusionWeights
    rounds: int


@dataclass(frozen=True, slots=True)
class Trained:
    """Both rankers of one training set, with the settings that were chosen inside it."""

    linear: LinearRanker
    trees: LightGbmRanker
    settings: Settings

    def rankers(self) -> dict[str, Ranker]:
        return {"linear": self.linear, "lightgbm": self.trees}


Scores = dict[str, dict[str, dict[str, float]]]
"""``{row: {collection: {query id: nDCG@10}}}``."""


def prepare(collection: JudgedCollection) -> list[Group]:
    """Features, labels and the simple rankings' figures; queries without any relevant document are left out."""
    return [_group(collection.name, query) for query in collection.queries if any(query.grades.values())]


def train(groups: Sequence[Group], settings: Settings | None = None) -> Trained:
    """Fit both rankers on all of `groups`; unless given, the settings are chosen by cross-validation in them."""
    settings = settings or choose(groups)
    linear = fit_linear(groups, settings.weights)
    trees = fit_trees(groups, linear, settings)
    linear = fit_memory(groups, linear, settings.weights)
    return Trained(linear, replace(trees, start=linear), settings)


def choose(groups: Sequence[Group]) -> Settings:
    """The fusion weights that the linear ranker does best with, then the number of trees, on held-out groups.

    Whole collections are held out in turn where there are several, else fifths of the queries.
    """
    weights = choose_weights(groups)
    by_rounds: dict[int, list[float]] = {rounds: [] for rounds in ROUNDS}
    for held_out, rest in _folds(groups):
        trees = fit_trees(rest, fit_linear(rest, weights), Settings(weights, max(ROUNDS)))
        for rounds, figures in by_rounds.items():
            figures.append(_mean_ndcg(trees.cut(rounds), held_out, weights))
    return Settings(weights, max(by_rounds, key=lambda rounds: fmean(by_rounds[rounds])))


def choose_weights(groups: Sequence[Group]) -> FusionWeights:
    """As `choose`: the largest learned share that is no worse than the best by more than `NOISE`."""
    by_share = {}
    for share in LTR_SHARES:
        weights = FusionWeights(share, 1 - share)
        by_share[share] = fmean(
            _mean_ndcg(fit_linear(rest, weights), held_out, weights) for held_out, rest in _folds(groups)
        )
    share = max(candidate for candidate, value in by_share.items() if value >= max(by_share.values()) - NOISE)
    return FusionWeights(share, 1 - share)


def fit_linear(
    groups: Sequence[Group], weights: FusionWeights, start: Mapping[str, float] = MappingProxyType(START)
) -> LinearRanker:
    """Weights that maximise a smooth nDCG@10 of the fused score; each collection counts alike.

    A document's rank is 1 + Σ sigmoid of the others' lead (Qin, Liu and Li, A General Approximation Framework for
    Direct Optimization of Information Retrieval Measures, 2010), here of the score after min-max scaling and fusion.
    """
    return LinearRanker.of(_fitted(groups, {}, start, weights))


def fit_memory(groups: Sequence[Group], linear: LinearRanker, weights: FusionWeights) -> LinearRanker:
    """`linear` with a weight for what is remembered of the other queries of `groups`; its own weights stay."""
    fixed = {name: float(linear.weights[COLUMN[name]]) for name in LINEAR_FEATURES}
    return LinearRanker.of(fixed | _fitted(with_memory(groups, groups), fixed, MEMORY_START, weights))


def with_memory(groups: Iterable[Group], known: Sequence[Group]) -> list[Group]:
    """`groups` as they are served by an installation that judged the queries `known`, each without its own."""
    by_collection: dict[str, list[Group]] = {}
    for group in known:
        by_collection.setdefault(group.collection, []).append(group)
    return [_remembering(group, by_collection.get(group.collection, [])) for group in groups]


def _remembering(group: Group, known: Sequence[Group]) -> Group:
    """As `rag.pipeline.judged` reads it from the database."""
    others = [other for other in known if other.query_id != group.query_id]
    if not others:
        return group
    similarities = np.array([other.query_embedding for other in others]) @ group.query_embedding
    nearest = np.argsort(-similarities, kind="stable")[:NEAREST]
    memory = Memory(
        document_ids=np.concatenate([others[place].relevant for place in nearest]),
        similarities=np.repeat(similarities[nearest], [len(others[place].relevant) for place in nearest]),
    )
    values = group.features.values.copy()
    values[:, COLUMN["memory"]] = remembered(memory, group.document_ids)
    return replace(group, features=replace(group.features, values=values))


def _fitted(
    groups: Sequence[Group], fixed: Mapping[str, float], start: Mapping[str, float], weights: FusionWeights
) -> dict[str, float]:
    """The weights of the features in `start`, drawn to its values, beside the `fixed` ones."""
    columns = [COLUMN[name] for name in (*fixed, *start)]
    given, begin = np.array(list(fixed.values())), np.array(list(start.values()))
    useful = [
        (share, group, group.features.values[:, columns].astype(np.float64))
        for share, group in _shares(groups)
        if group.grades.any()
    ]

    def loss(candidate: Float64Array) -> tuple[float, Float64Array]:
        value, gradient = 0.0, np.zeros(len(candidate))
        for share, group, values in useful:
            ndcg, slope = _smooth_ndcg(np.concatenate([given, candidate]), values, group, weights)
            value -= share * ndcg
            gradient -= share * slope[len(given) :]
        pull = candidate - begin
        return value + LINEAR_PULL * float(pull @ pull), gradient + 2 * LINEAR_PULL * pull

    with threadpool_limits(1):
        found = minimize(loss, begin, jac=True, method="L-BFGS-B", options={"maxiter": 80})
    # Six digits: more would only record the machine's rounding.
    return {name: round(float(weight), 6) for name, weight in zip(start, found.x, strict=True)}


def fit_trees(groups: Sequence[Group], linear: LinearRanker, settings: Settings) -> LightGbmRanker:
    """LambdaMART that begins from the fused score of `linear`, so that it learns what fusion leaves to be done."""
    useful = [(share, group) for share, group in _shares(groups) if group.grades.any()]
    fused = [_fused(linear, group, settings.weights) for _, group in useful]
    sizes = [len(group.grades) for _, group in useful]
    query_weights = np.repeat([share for share, _ in useful], sizes)
    certainty = np.concatenate([group.weights for _, group in useful])
    data = lightgbm.Dataset(
        np.concatenate([group.features.values for _, group in useful]),
        np.concatenate([group.grades for _, group in useful]).astype(np.int32),
        group=sizes,
        # A relevant document's pairs count by how sure it is that it is relevant.
        weight=query_weights * (len(query_weights) / query_weights.sum()) * certainty,
        init_score=START_SCALE / settings.weights.ltr * np.concatenate(fused),
        feature_name=list(FEATURES),
        params=TREE_PARAMETERS,
    )
    booster = lightgbm.train(TREE_PARAMETERS, data, settings.rounds)
    return LightGbmRanker(booster, linear, START_SCALE)


def ndcg_of(ranker: Ranker, group: Group, weights: FusionWeights) -> float:
    """nDCG@10 of the ranking as it is served."""
    scores, _, _ = score_guarded(ranker, group.features)
    fused = fuse(group.chunk_ids, scores, group.conceptual, weights)
    return _ndcg(fused.order, group.document_ids, group.grades, group.ideal)


def zero_shot(groups: Sequence[Group]) -> tuple[dict[str, Trained], Scores]:
    """For each collection the rankers trained without it, and every row's figures on it."""
    trained: dict[str, Trained] = {}
    scores: Scores = {}
    for held_out, rest in _by_collection(groups):
        name = held_out[0].collection
        trained[name] = train(rest)
        _add(scores, held_out, trained[name])
    return trained, scores


def in_domain(groups: Sequence[Group], collection: str, folds: int = 5) -> Scores:
    """Figures on each fold of the collection's queries, trained on its other folds and all other collections.

    Rows ending in `WITH_MEMORY` are those of an installation that remembers the judgements of the other folds.
    """
    own = [group for group in groups if group.collection == collection]
    others = [group for group in groups if group.collection != collection]
    scores: Scores = {}
    for held_out, rest in _by_query(own, folds):
        trained = train([*others, *rest])
        _add(scores, held_out, trained)
        _add(scores, with_memory(held_out, rest), trained, WITH_MEMORY)
    return scores


def ablation(groups: Sequence[Group]) -> Scores:
    """Figures of the linear ranker on collections it never saw, as it is (`FULL`) and without each of its parts."""
    scores: Scores = {}
    for held_out, rest in _by_collection(groups):
        weights = choose_weights(rest)
        full = fit_linear(rest, weights)
        alone = FusionWeights(1.0, 0.0)
        variants: dict[str, tuple[Ranker, FusionWeights]] = {
            FULL: (full, weights),
            **{
                f"without {name}": (fit_linear(rest, weights, {k: v for k, v in START.items() if k != name}), weights)
                for name in LINEAR_FEATURES
            },
            "without fusion with the cosine": (fit_linear(rest, alone), alone),
            "without fitting": (LinearRanker.of(START), weights),
            "without ranker": (SimpleRanker(), weights),
        }
        for group in held_out:
            values = {row: ndcg_of(ranker, group, of) for row, (ranker, of) in variants.items()}
            unguarded = _fused(full, group, weights)
            order = np.lexsort((group.chunk_ids, -unguarded))
            values["without safeguard"] = _ndcg(order, group.document_ids, group.grades, group.ideal)
            for row, value in values.items():
                scores.setdefault(row, {}).setdefault(group.collection, {})[group.query_id] = value
    return scores


def in_sample(groups: Sequence[Group], trained: Trained) -> Scores:
    """Figures on what the rankers were trained on: not to be compared with anything."""
    scores: Scores = {}
    _add(scores, groups, trained)
    return scores


def means(scores: Scores) -> dict[str, dict[str, float]]:
    """``{row: {collection: mean, …, "macro": mean of these}}``, rounded to 4 digits."""
    table = {row: {name: fmean(queries.values()) for name, queries in per.items()} for row, per in scores.items()}
    return {
        row: {name: round(value, 4) for name, value in (per | {"macro": fmean(per.values())}).items()}
        for row, per in table.items()
    }


def best_simple(scores: Scores) -> str:
    """The simple row with the highest macro mean."""
    table = means({row: scores[row] for row in SIMPLE_ROWS})
    return max(SIMPLE_ROWS, key=lambda row: table[row]["macro"])


def best_kind(scores: Scores) -> str:
    """What is to ship, by figures on held-out queries: each step up must be significantly better (p < 0.05).

    The trees only where they beat the linear ranker, and nothing learned that doesn't beat every simple row.
    """
    learned = "lightgbm" if _beats(scores, "lightgbm", "linear") else "linear"
    return learned if _beats(scores, learned, best_simple(scores)) else SimpleRanker.kind


def _beats(scores: Scores, row: str, baseline: str) -> bool:
    comparison = compare(scores, row, baseline)
    return comparison.difference > 0 and comparison.p_value < SIGNIFICANCE


def write_model(
    folder: Path,
    name: str,
    ranker: LinearRanker | LightGbmRanker,
    weights: FusionWeights,
    description: str,
    metrics: Mapping[str, object],
    provenance: Mapping[str, object],
    *,
    default: bool = False,
) -> None:
    """Write the model file and, last, its sidecar `NAME.json`. New installations begin with the ``default``."""
    suffix = {"linear": "weights", "lightgbm": "txt"}[ranker.kind]
    file = folder / f"{name}.{suffix}"
    file.write_bytes(ranker.to_bytes())
    sidecar = {
        "file": file.name,
        "kind": ranker.kind,
        "default": default,
        "description": description,
        "feature_schema_version": SCHEMA_VERSION,
        "fusion_weights": {"ltr": weights.ltr, "conceptual": weights.conceptual},
        "metrics": metrics,
        "provenance": provenance,
    }
    (folder / f"{name}.json").write_text(json.dumps(sidecar, indent=1) + "\n", encoding="utf-8")


def _group(collection: str, query: JudgedQuery) -> Group:
    candidates = query.candidates
    grades = np.array([query.grades.get(int(document), 0) for document in candidates.document_ids], dtype=np.float64)
    weights = np.array([query.weights.get(int(document), 1.0) for document in candidates.document_ids])
    ideal = _ideal(query.grades.values())
    conceptual = 1.0 - candidates.distances.astype(np.float64)
    features = extract(query.terms, candidates)
    fused = fuse(candidates.chunk_ids, conceptual, conceptual, FusionWeights(0.5, 0.5))
    by_row = orders(query.terms, candidates, fused)
    return Group(
        collection=collection,
        query_id=query.query_id,
        features=features,
        query_embedding=candidates.query_embedding,
        relevant=np.array(sorted(document for document, grade in query.grades.items() if grade), dtype=np.int64),
        conceptual=conceptual,
        conceptual_norm=fused.conceptual_norm,
        chunk_ids=candidates.chunk_ids,
        document_ids=candidates.document_ids,
        grades=grades,
        weights=weights,
        ideal=ideal,
        ideal_gain=_ideal(grade * query.weights.get(document, 1.0) for document, grade in query.grades.items()),
        simple={row: _ndcg(by_row[row], candidates.document_ids, grades, ideal) for row in SIMPLE_ROWS},
    )


def _ideal(gains: Iterable[float]) -> float:
    """DCG@10 of the best ranking there could be."""
    best = np.sort(np.array(list(gains), dtype=np.float64))[::-1][:DEPTH]
    return float(best @ _discounts(len(best)))


def _discounts(count: int) -> Float64Array:
    return 1.0 / np.log2(np.arange(2, count + 2))


def _ndcg(order: Int64Array, document_ids: Int64Array, grades: Float64Array, ideal: float) -> float:
    _, first = np.unique(document_ids[order], return_index=True)
    gains = grades[order[np.sort(first)[:DEPTH]]]
    return float(gains @ _discounts(len(gains))) / ideal


def _smooth_ndcg(
    candidate: Float64Array, values: Float64Array, group: Group, weights: FusionWeights
) -> tuple[float, Float64Array]:
    """Smooth nDCG@10 and its gradient by the weights of the linear score."""
    linear = values @ candidate
    low, high = int(linear.argmin()), int(linear.argmax())
    spread = max(float(linear[high] - linear[low]), 1e-9)
    scaled = (linear - linear[low]) / spread
    fused = weights.ltr * scaled + weights.conceptual * group.conceptual_norm
    best = _best_chunks(fused, group.document_ids)
    relevant = np.flatnonzero(group.grades[best])

    lead = (fused[best][None, :] - fused[best][relevant, None]) / TEMPERATURE
    ahead = 1.0 / (1.0 + np.exp(-np.clip(lead, -40, 40)))
    # A document's lead over itself is 0, which counts one half.
    rank = 0.5 + ahead.sum(axis=1)
    within = 1.0 / (1.0 + np.exp((rank - DEPTH - 0.5) / RANK_SOFTNESS))
    discount = np.log2(1.0 + rank)
    gains = group.gains[best][relevant] / group.ideal_gain
    by_rank = gains * (
        -within * (1.0 - within) / RANK_SOFTNESS / discount - within / (discount**2 * (1.0 + rank) * np.log(2.0))
    )
    slope = ahead * (1.0 - ahead) / TEMPERATURE * by_rank[:, None]
    by_fused = slope.sum(axis=0)
    by_fused[relevant] -= slope.sum(axis=1)
    by_scaled = weights.ltr * by_fused
    gradient = (
        values[best].T @ by_scaled
        - values[low] * by_scaled.sum()
        - (values[high] - values[low]) * float(by_scaled @ scaled[best])
    ) / spread
    return float(gains @ (within / discount)), gradient


def _best_chunks(scores: Float64Array, document_ids: Int64Array) -> Int64Array:
    """Position of each document's best chunk."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(document_ids[order], return_index=True)
    return order[first]


def _fused(ranker: Ranker, group: Group, weights: FusionWeights) -> Float64Array:
    return fuse(group.chunk_ids, ranker.score(group.features), group.conceptual, weights).fused


def _shares(groups: Sequence[Group]) -> list[tuple[float, Group]]:
    """Each query's share, such that collections count alike and all shares sum to 1."""
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group.collection] = sizes.get(group.collection, 0) + 1
    return [(1 / len(sizes) / sizes[group.collection], group) for group in groups]


Fold = tuple[list[Group], list[Group]]
"""What is held out, and the rest."""


def _folds(groups: Sequence[Group]) -> list[Fold]:
    several = len({group.collection for group in groups}) > 1
    return _by_collection(groups) if several else _by_query(groups, 5)


def _by_collection(groups: Sequence[Group]) -> list[Fold]:
    return [
        (
            [group for group in groups if group.collection == name],
            [group for group in groups if group.collection != name],
        )
        for name in sorted({group.collection for group in groups})
    ]


def _by_query(groups: Sequence[Group], folds: int) -> list[Fold]:
    fold_of = np.random.default_rng(SEED).permutation(len(groups)) % folds
    return [
        (
            [group for group, of in zip(groups, fold_of, strict=True) if of == fold],
            [group for group, of in zip(groups, fold_of, strict=True) if of != fold],
        )
        for fold in range(min(folds, len(groups)))
    ]


def _mean_ndcg(ranker: Ranker, groups: Sequence[Group], weights: FusionWeights) -> float:
    return fmean(ndcg_of(ranker, group, weights) for group in groups)


def _add(scores: Scores, groups: Iterable[Group], trained: Trained, suffix: str = "") -> None:
    for group in groups:
        values = {} if suffix else dict(group.simple)
        for name, ranker in trained.rankers().items():
            values[name + suffix] = ndcg_of(ranker, group, trained.settings.weights)
        for row, value in values.items():
            scores.setdefault(row, {}).setdefault(group.collection, {})[group.query_id] = value
