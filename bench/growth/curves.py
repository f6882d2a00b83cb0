"""Are generated vectors as hard to search as real ones?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.corpus.generator import Generator, intrinsic_dimension, nearest
from bench.growth.rows import cursor_of

EF_CURVE = (10, 20, 40, 80, 160)


def compare(real: NDArray[np.float32], generator: Generator) -> dict[str, Any]:
    """Whether the generated vectors are as hard to search as the real ones: dimension, and recall@10 by ef_search.

    Both are as many as half of the sample; the queries are the other half's first hundred, the same for both.
    """
    half = len(real) // 2
    queries, kept = real[half : half + 100], real[:half]
    made = Generator(kept, generator.step).make(half, seed=11).vectors
    return {
        "vectors": half,
        "step": generator.step,
        "dimension": (intrinsic_dimension(kept), intrinsic_dimension(made)),
        "real": _ef_curve(kept, queries),
        "generated": _ef_curve(made, queries),
    }


def _ef_curve(vectors: NDArray[np.float32], queries: NDArray[np.float32]) -> list[float]:
    exact, _ = nearest(queries, vectors, 10)
    with cursor_of() as cursor:
        cursor.execute(f"CREATE TEMPORARY TABLE curve (id integer, embedding vector({vectors.shape[1]}))")
        with cursor.copy("COPY curve (id, embedding) FROM STDIN") as copy:
            for number, vector in enumerate(vectors):
                copy.write_row((number, "[" + ",".join(map(str, vector.tolist())) + "]"))
        cursor.execute("CREATE INDEX ON curve USING hnsw (embedding vector_cosine_ops)")
        cursor.execute("ANALYZE curve")
        cursor.execute("SET enable_seqscan = off; SET hnsw.iterative_scan = off")
        curve = []
        for ef_search in EF_CURVE:
            cursor.execute(f"SET hnsw.ef_search = {ef_search}")
            found = 0
            for query, wanted in zip(queries, exact, strict=True):
                text = "[" + ",".join(map(str, query.tolist())) + "]"
                cursor.execute("SELECT id FROM curve ORDER BY embedding <=> %s::vector LIMIT 10", [text])
                found += len({row[0] for row in cursor.fetchall()} & set(wanted.tolist()))
            curve.append(found / wanted.size / len(queries))
        cursor.execute("DROP TABLE curve; RESET enable_seqscan; RESET hnsw.ef_search; RESET hnsw.iterative_scan")
    return curve
