"""Ranking measures, by ir-measures: nDCG@10 (gain = grade, discount log2), recall@100 and MRR@10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import ir_measures
from ir_measures import RR, R, nDCG

MEASURES = {"ndcg@10": nDCG @ 10, "recall@100": R @ 100, "mrr@10": RR @ 10}

Ranking = Sequence[str]
"""Document ids, best first, each once."""

Judgements = Mapping[str, Mapping[str, int]]
"""``{query id: {document id: grade}}``."""


def per_query(rankings: Mapping[str, Ranking], judgements: Judgements) -> dict[str, dict[str, float]]:
    """``{query id: {measure: value}}`` for every judged query; one without a ranking counts 0."""
    # The library orders by score and breaks ties by id, so each place gets a score of its own.
    run = {
        query_id: {document_id: float(-place) for place, document_id in enumerate(rankings.get(query_id, ()))}
        for query_id in judgements
    }
    run = {query_id: ranking or {"": 0.0} for query_id, ranking in run.items()}
    values: dict[str, dict[str, float]] = {query_id: {} for query_id in sorted(judgements)}
    names = {measure: name for name, measure in MEASURES.items()}
    for metric in ir_measures.iter_calc(list(names), judgements, run):
        values[metric.query_id][names[metric.measure]] = float(metric.value)
    return values


def means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of each measure over the queries; 0 without queries."""
    return {name: fmean(of_query[name] for of_query in values.values()) if values else 0.0 for name in MEASURES}
