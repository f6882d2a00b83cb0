"""How vectors are searched: the SQL of a vector index, shared by who builds it and who searches by it.

An index is partial, over one collection and one space, and over an expression that gives the vectors their dimension,
so a search reaches it only when collection, space and dimension stand in its text as literals. ``id <> -marker`` is
true of every row; it stands in the index's predicate and in the search, so that a search uses the one index that its
configuration names, although another one may lie over the same rows (as while they are exchanged).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnnPlan:
    """What `rag.models.AnnConfig` says of searching. ``config_id`` is 0 where no configuration is live.

    ``vectors`` is how many there were when the index was built: what a filter's selectivity is judged by.
    """

    config_id: int = 0
    strategy: str = "exact"
    precision: str = "full"
    marker: int = 0
    vectors: int = 0
    ef_search: int = 0
    probes: int = 0
    iterative_scan: str = "off"
    rerank: int = 0

    @property
    def is_exact(self) -> bool:
        return self.strategy == "exact"

    def inner_limit(self, depth: int) -> int:
        """How many the index is asked for, of which the ``depth`` nearest by their full vectors are kept."""
        return max(depth, self.rerank) if self.precision == "binary" else depth

    def settings(self, depth: int) -> dict[str, str]:
        """pgvector's settings for one search; each holds for the transaction it is set in."""
        if self.strategy == "hnsw":
            # An HNSW scan returns at most ef_search rows, unless it goes on iteratively, which costs more.
            ef_search = min(max(self.ef_search, self.inner_limit(depth)), 1000)
            return {"hnsw.ef_search": str(ef_search), "hnsw.iterative_scan": self.iterative_scan}
        iterative = "relaxed_order" if self.iterative_scan != "off" else "off"
        return {"ivfflat.probes": str(self.probes), "ivfflat.iterative_scan": iterative}


EXACT = AnnPlan()

_TYPES = {"full": "vector", "half": "halfvec"}


def indexed_expression(precision: str, dimension: int, value: str = "embedding") -> str:
    """What of a vector the index keeps; ``value`` is the column, or a parameter."""
    if precision == "binary":
        return f"binary_quantize({value}::vector({dimension:d}))::bit({dimension:d})"
    return f"{value}::{_TYPES[precision]}({dimension:d})"


def operator_class(precision: str) -> str:
    return "bit_hamming_ops" if precision == "binary" else f"{_TYPES[precision]}_cosine_ops"


def distance(precision: str, dimension: int) -> str:
    """What the index orders by, for a vector in the parameter ``query``."""
    operator = "<~>" if precision == "binary" else "<=>"
    query = indexed_expression(precision, dimension, "%(query)s")
    return f"({indexed_expression(precision, dimension)}) {operator} ({query})"


def predicate(collection_id: int, space_id: int, marker: int) -> str:
    """The rows of an index, said in the same words where it is made and where it is used."""
    return f"collection_id = {collection_id:d} AND space_id = {space_id:d} AND id <> -{marker:d}"
