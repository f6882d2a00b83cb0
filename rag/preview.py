"""A query under two fusion weights, side by side: the registry's `Preview`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models_registry.tuning import TOP, Shares, Shown, Sides
from ops.contracts.principal import Principal
from rag.models import Collection
from rag.pipeline.database import hot_cursor
from rag.pipeline.fusion import fuse
from rag.pipeline.query import SearchRequest, validate
from rag.pipeline.results import read_results
from rag.pipeline.scored import ScoredCandidates
from rag.pipeline.search import Progress, scored_candidates
from rag.pipeline.snapshot import resolve
from rag.pipeline.types import FusedScores, FusionWeights, Int64Array

EXCERPT_CHARACTERS = 160


class PipelinePreview:
    """By the live models and the feature cache, so that only a query's first look embeds, retrieves and ranks."""

    def collections(self, principal: Principal) -> Sequence[str]:
        slugs = Collection.objects.order_by("slug").values_list("slug", flat=True)
        return [slug for slug in slugs if principal.may_touch(slug)]

    def sides(self, query: str, collection: str, current: Shares, proposed: Shares, principal: Principal) -> Sides:
        request = validate(SearchRequest(query, collection, TOP))
        resolved = resolve(collection, principal)
        progress = Progress("preview")
        scored = scored_candidates(request, resolved, progress)
        fused = [_fused(scored, shares) for shares in (current, proposed)]
        ranks = [_ranks(one.order) for one in fused]
        tops = [one.order[:TOP] for one in fused]
        shown = [_shown(request, scored, fused[side], tops[side], ranks[side], ranks[1 - side]) for side in range(2)]
        changed = len(set(tops[0].tolist()) - set(tops[1].tolist()))
        notes = [f"Without {part}: {reason}" for part, reason in progress.degraded.items()]
        if scored.safeguard:
            notes.append(f"The simple ranker stood in: {scored.safeguard}")
        return Sides(shown[0], shown[1], changed, notes)


def _fused(scored: ScoredCandidates, shares: Shares) -> FusedScores:
    return fuse(scored.chunk_ids, scored.ltr_scores, 1.0 - scored.distances, FusionWeights(*shares))


def _ranks(order: Int64Array) -> Int64Array:
    """The place of each position, from 1."""
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def _shown(
    request: SearchRequest,
    scored: ScoredCandidates,
    fused: FusedScores,
    top: Int64Array,
    ranks: Int64Array,
    other_ranks: Int64Array,
) -> list[Shown]:
    with hot_cursor() as cursor:
        results, _ = read_results(cursor, top, scored, fused, request, None)
    positions = {int(scored.chunk_ids[position]): position for position in top.tolist()}
    return [
        Shown(
            chunk_id=result["chunk_id"],
            title=result["title"] or result["document_id"],
            where=" › ".join(result["heading_path"]),
            excerpt=" ".join(result["text"].split())[:EXCERPT_CHARACTERS],
            score=result["fused_score"],
            rank=int(ranks[position]),
            other_rank=int(other_ranks[position]),
        )
        for result in results
        for position in [positions[result["chunk_id"]]]
    ]
