"""From the fused order to the passages of the answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from rag.pipeline.body import Shown
from rag.pipeline.database import HotCursor
from rag.pipeline.features import FEATURES
from rag.pipeline.query import SearchRequest
from rag.pipeline.scored import ScoredCandidates
from rag.pipeline.types import Float64Array, FusedScores, Int64Array

PARTS = (*FEATURES, "base")
"""The names of an LTR score's parts: of each feature, and of what no feature decides."""

_READ = """
    SELECT chunk.id, document.document_id, document.source, document.title, chunk.text, document.external_url,
           chunk.heading_path, chunk.page, chunk.start, chunk."end", document.metadata, document.content_hash
    FROM rag_chunk AS chunk JOIN rag_document AS document ON document.id = chunk.document_id
    WHERE chunk.id = ANY(%(chunk_ids)s)
"""


def page_of(fused: FusedScores, scored: ScoredCandidates, request: SearchRequest) -> Int64Array:
    """Positions in the candidate arrays of the results to show, best first: int64, at most ``top_k``."""
    order = fused.order
    if request.group_by == "document":
        _, first = np.unique(scored.document_ids[order], return_index=True)
        order = order[np.sort(first)]
    return order[request.offset : request.offset + (request.top_k or 0)]


def read_results(
    cursor: HotCursor,
    page: Int64Array,
    scored: ScoredCandidates,
    fused: FusedScores,
    request: SearchRequest,
    contributions: Float64Array | None,
) -> tuple[list[dict[str, Any]], list[Shown]]:
    """The results as the API shows them, and as impressions record them.

    ``contributions``: as `Ranker.explain`, of all candidates; shown with the features when the request asks for them.
    A passage that was removed since it was scored is left out of both.
    """
    rows = {row[0]: row for row in cursor.rows(_READ, {"chunk_ids": scored.chunk_ids[page].tolist()})}
    results: list[dict[str, Any]] = []
    impressions: list[Shown] = []
    for position in page.tolist():
        row = rows.get(int(scored.chunk_ids[position]))
        if row is None:
            continue
        result = {
            "chunk_id": row[0],
            "document_id": row[1],
            "source": row[2],
            "title": row[3],
            "text": row[4],
            "external_url": row[5],
            "heading_path": row[6],
            "page": row[7],
            "start": row[8],
            "end": row[9],
            "metadata": row[10],
            "matched_by": {
                "dense": int(scored.dense_ranks[position]) or None,
                "lexical": int(scored.lexical_ranks[position]) or None,
            },
            "distance": float(scored.distances[position]),
            "conceptual_score": float(fused.conceptual[position]),
            "conceptual_score_norm": float(fused.conceptual_norm[position]),
            "ltr_score": float(fused.ltr[position]),
            "ltr_score_norm": float(fused.ltr_norm[position]),
            "fused_score": float(fused.fused[position]),
        }
        if request.explain:
            result["features"] = {
                name: float(value) for name, value in zip(FEATURES, scored.features[position], strict=True)
            }
            if contributions is not None:
                result["contributions"] = dict(zip(PARTS, contributions[position].tolist(), strict=True))
            result["fused_parts"] = {
                "ltr": float(fused.weights.ltr * fused.ltr_norm[position]),
                "conceptual": float(fused.weights.conceptual * fused.conceptual_norm[position]),
            }
        impressions.append(
            Shown(request.offset + len(results), row[0], row[1], row[11], row[8], row[9], result["fused_score"])
        )
        results.append(result)
    return results, impressions
