"""What another server found, checked against PostgreSQL: it alone says who may read what, at this moment."""

from __future__ import annotations

import numpy as np

from rag.pipeline.database import HotCursor
from rag.pipeline.eligible import Eligibility
from rag.pipeline.snapshot import PipelineSnapshot
from rag.pipeline.types import Int64Array

_STILL = "WITH {eligible} SELECT chunk_id FROM eligible"


def still_eligible(
    cursor: HotCursor, snapshot: PipelineSnapshot, eligibility: Eligibility, chunk_ids: Int64Array
) -> Int64Array:
    """Those of ``chunk_ids`` that are eligible, in their order.

    The other server applied the same conditions; this catches an access list that has changed since it last heard.
    """
    if eligibility.is_everything or not len(chunk_ids):
        return chunk_ids
    rows = cursor.rows(
        _STILL.format(eligible=eligibility.among),
        {
            "collection_id": snapshot.collection_id,
            "chunk_ids": chunk_ids.tolist(),
            **eligibility.parameters,
        },
    )
    kept: Int64Array = chunk_ids[np.isin(chunk_ids, [row[0] for row in rows])]
    return kept
